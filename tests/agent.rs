//! Show 5: the wire behaviour of deployed agents, recorded and replayed through libnbd: two
//! connections of which one stays idle, WRITE and WRITE_ZEROES of up to 32 MiB in round-robin
//! order, 512-byte edges, the same request again, no FLUSH, no FUA, and "complete" over HTTP while
//! the connections are still open.

use std::io::{BufRead, BufReader};
use std::path::Path;

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{backup, mover, oracle};
use serde_json::{Value, json};

const CHUNK: u64 = 32 << 20;

/// A full as the agent sends it: 32 MiB chunks, three workers dealing ranges round robin over the
/// second connection, whole zero chunks as WRITE_ZEROES, some requests sent twice.
fn full_plan(disk: &Disk, pause: &Path) -> Value {
    let mut ops = Vec::new();
    let third = disk.size().div_ceil(3).next_multiple_of(512);
    let mut next: Vec<u64> = (0..3).map(|w| w * third).collect();
    let ends: Vec<u64> = (1..=3).map(|w| (w * third).min(disk.size())).collect();
    while next.iter().zip(&ends).any(|(n, e)| n < e) {
        for worker in 0..3 {
            let (at, end) = (next[worker], ends[worker]);
            if at >= end {
                continue;
            }
            let len = CHUNK.min(end - at);
            next[worker] = at + len;
            let zero = disk.read(at, len).iter().all(|b| *b == 0);
            let op = json!({ "conn": 1, "op": if zero { "zero" } else { "write" }, "at": at, "len": len });
            if ops.len() % 5 == 4 {
                ops.push(op.clone());
            }
            ops.push(op);
        }
    }
    json!({ "connections": 2, "window": 1, "negotiate": "agent", "pause": pause, "ops": ops })
}

/// Sends a plan, completes while the mover is still connected, then lets it go.
#[track_caller]
fn push_and_complete_before_disconnect(
    daemon: &Daemon,
    disk: &Disk,
    started: &Value,
    plan: &Value,
    pause: &Path,
    token: &str,
) -> Value {
    std::fs::write(pause, "").unwrap();
    let mut child = mover::spawn(&disk.path, &backup::uri(started, 0), plan);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let sent = mover::sent(&line);
    assert!(sent.errors.is_empty(), "{:?}", sent.errors);
    let sealed = daemon.complete(
        &backup::id(started),
        &json!([{ "disk_id": 0, "change_id": token }]),
    );
    std::fs::remove_file(pause).unwrap();
    assert!(child.wait().unwrap().success());
    sealed
}

#[test]
fn the_recorded_agent_profile_runs_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let pause = dir.path().join("pause");
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::empty(&dir.path().join("disk.raw"), (200 << 20) + 512);
    let mut random = Random::new(31);
    for _ in 0..60 {
        let at = random.below(199 << 20) / 512 * 512;
        let len = 512 * (1 + random.below(2000)) as usize;
        let bytes = random.bytes(len);
        disk.write(at.min(disk.size() - len as u64), &bytes);
    }

    let started = daemon.start_backup(&backup::full_request("agent1", &disk));
    let plan = full_plan(&disk, &pause);
    push_and_complete_before_disconnect(&daemon, &disk, &started, &plan, &pause, "52 c0/1");
    oracle::check_clean(&daemon.images(&backup::id(&started))[0]);
    oracle::identical(&daemon.images(&backup::id(&started))[0], &disk.path);

    // The incremental: extents with 512-byte edges, gaps up to 1 MiB merged by the agent, one
    // connection, not ascending, a zeroed region as WRITE_ZEROES without flags.
    let mut changes = Vec::new();
    for i in 0..40u64 {
        let at = i * (5 << 20) + 512 * random.below(64);
        let act = if i % 6 == 5 { Act::Zero } else { Act::Write };
        changes.push(Change {
            at,
            len: 512 * (1 + random.below(3000)),
            act,
        });
    }
    disk.apply(&changes, &mut random);
    let mut dealt: Vec<Change> = (0..4)
        .flat_map(|w| changes.iter().copied().skip(w).step_by(4))
        .collect();
    dealt.reverse();
    let started = daemon.start_backup(&json!({
        "vm_name": "agent1", "backup_type": "incremental", "repository": "local",
        "disks": [{
            "disk_id": 0, "size_bytes": disk.size(), "base_change_id": "52 c0/1",
            "changes": to_json(&changes),
        }],
    }));
    let plan = json!({
        "connections": 1, "window": 1, "negotiate": "agent", "pause": pause,
        "ops": mover::operations(&dealt, 1, &mut random),
    });
    push_and_complete_before_disconnect(&daemon, &disk, &started, &plan, &pause, "52 c0/2");
    let image = &daemon.images(&backup::id(&started))[0];
    oracle::check_clean(image);
    oracle::identical(image, &disk.path);
}
