//! Show 5: the wire behaviour of deployed agents, recorded and replayed through libnbd: two
//! connections of which the first stays idle, WRITE and WRITE_ZEROES of up to 32 MiB in round-robin
//! order, 512-byte edges, the same request again up to three times, no FLUSH, no FUA, disks one
//! after the other, and for each of them "complete" over HTTP while its connections are still open.
//!
//! The words over HTTP are our routes' (`/backup/start`, `/backup/{id}/complete`). The routes that
//! deployed agents call themselves (`/backups/*`, `/telemetry/*`, a listener of their own) are not
//! served here: they belong to the control plane, and nothing in this file shows them.

use std::io::{BufRead, BufReader};
use std::path::Path;

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{backup, mover, oracle};
use serde_json::{Value, json};

const CHUNK: u64 = 32 << 20;

/// A full as the agent sends it: 32 MiB chunks, three workers dealing ranges round robin over the
/// second connection, whole zero chunks as WRITE_ZEROES, some requests again up to three times.
fn full_plan(disk: &Disk, pause: &Path) -> Value {
    let mut ops = Vec::new();
    let third = disk.size().div_ceil(3).next_multiple_of(512);
    let mut next: Vec<u64> = (0..3).map(|w| w * third).collect();
    let ends: Vec<u64> = (1..=3).map(|w| (w * third).min(disk.size())).collect();
    let mut sent = 0;
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
            // Once, twice, three times or four times.
            ops.extend(std::iter::repeat_n(op, 1 + sent % 4));
            sent += 1;
        }
    }
    let plan =
        json!({ "connections": 2, "window": 1, "negotiate": "agent", "pause": pause, "ops": ops });
    as_recorded(&plan);
    for kind in ["write", "zero"] {
        let whole = |op: &&Value| op["op"] == kind && op["len"] == CHUNK;
        assert!(ops.iter().any(|op| whole(&op)), "a {kind} of 32 MiB");
    }
    assert!(ops.iter().all(|op| op["conn"] == 1), "the first stays idle");
    plan
}

/// Fails where a plan does what no deployed agent does.
#[track_caller]
fn as_recorded(plan: &Value) {
    let mut ascends = true;
    let mut last = 0;
    for op in plan["ops"].as_array().unwrap() {
        let (at, len) = (op["at"].as_u64().unwrap(), op["len"].as_u64().unwrap());
        assert!(
            ["write", "zero"].contains(&op["op"].as_str().unwrap()),
            "{op}"
        );
        assert!(at % 512 == 0 && len % 512 == 0 && len <= CHUNK, "{op}");
        ascends &= at >= last;
        last = at;
    }
    assert!(!ascends, "round robin is not ascending");
    assert!(plan.get("flush").is_none(), "an agent never flushes");
}

/// Sends a plan, completes while the mover is still connected, then lets it go.
#[track_caller]
fn push_and_complete_before_disconnect(
    daemon: &Daemon,
    disk: &Disk,
    (started, number): (&Value, usize),
    plan: &Value,
    pause: &Path,
    token: &str,
) -> Value {
    std::fs::write(pause, "").unwrap();
    let mut child = mover::spawn(&disk.path, &backup::uri(started, number), plan);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let sent = mover::sent(&line);
    assert!(sent.errors.is_empty(), "{:?}", sent.errors);
    let path = format!("/backup/{}/complete?wait=100", backup::id(started));
    let body = json!({ "disks": [{ "disk_id": number, "change_id": token }] });
    let answer = daemon.post(&path, &body);
    assert!([200, 202].contains(&answer.status), "{}", answer.body);
    assert!(child.try_wait().unwrap().is_none(), "it is still connected");
    std::fs::remove_file(pause).unwrap();
    assert!(child.wait().unwrap().success());
    answer.body
}

/// A disk with data at random places but for a hole of 96 MiB.
fn agents_disk(path: &Path, seed: u64) -> (Disk, Random) {
    let disk = Disk::empty(path, (200 << 20) + 512);
    let mut random = Random::new(seed);
    for _ in 0..60 {
        let at = random.below(199 << 20) / 512 * 512;
        let len = 512 * (1 + random.below(2000)) as usize;
        let bytes = random.bytes(len);
        disk.write(at.min(disk.size() - len as u64), &bytes);
    }
    disk.write(64 << 20, &vec![0; 96 << 20]);
    (disk, random)
}

#[test]
fn the_recorded_agent_profile_runs_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let pause = dir.path().join("pause");
    let daemon = Daemon::start(&dir.path().join("data"));
    let (disk, mut random) = agents_disk(&dir.path().join("disk.raw"), 31);

    let started = daemon.start_backup(&backup::full_request("agent1", &disk));
    let plan = full_plan(&disk, &pause);
    push_and_complete_before_disconnect(&daemon, &disk, (&started, 0), &plan, &pause, "52 c0/1");
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
    let ops = mover::operations(&dealt, 1, &mut random);
    let ops: Vec<Value> = ops
        .into_iter()
        .enumerate()
        .flat_map(|(n, op)| std::iter::repeat_n(op, 1 + n % 4))
        .collect();
    let plan = json!({
        "connections": 1, "window": 1, "negotiate": "agent", "pause": pause, "ops": ops,
    });
    as_recorded(&plan);
    let sealed = push_and_complete_before_disconnect(
        &daemon,
        &disk,
        (&started, 0),
        &plan,
        &pause,
        "52 c0/2",
    );
    assert_eq!(sealed["status"], "completed", "{sealed}");
    let image = &daemon.images(&backup::id(&started))[0];
    oracle::check_clean(image);
    oracle::identical(image, &disk.path);
}

#[test]
fn the_disks_of_an_agent_come_one_after_the_other_and_each_is_completed_while_connected() {
    let dir = tempfile::tempdir().unwrap();
    let pause = dir.path().join("pause");
    let daemon = Daemon::start(&dir.path().join("data"));
    let disks = [0, 1].map(|n| agents_disk(&dir.path().join(format!("disk{n}")), 40 + n).0);
    let started = daemon.start_backup(&json!({
        "vm_name": "agent2", "backup_type": "full", "repository": "local",
        "disks": [
            { "disk_id": 0, "size_bytes": disks[0].size(), "device_key": "2000" },
            { "disk_id": 1, "size_bytes": disks[1].size(), "device_key": "2001" },
        ],
    }));
    let mut last = Value::Null;
    for (n, disk) in disks.iter().enumerate() {
        let (plan, token) = (full_plan(disk, &pause), format!("52 c{n}/1"));
        assert_ne!(last["status"], "completed", "not before the last disk");
        last = push_and_complete_before_disconnect(
            &daemon,
            disk,
            (&started, n),
            &plan,
            &pause,
            &token,
        );
        assert_eq!(last["disks"][n]["complete"], true, "{last}");
    }
    assert_eq!(last["status"], "completed", "{last}");
    let tokens = last["disks"].as_array().unwrap();
    let tokens: Vec<&Value> = tokens.iter().map(|d| &d["change_id"]).collect();
    assert_eq!(tokens, ["52 c0/1", "52 c1/1"], "{last}");
    for (image, disk) in daemon.images(&backup::id(&started)).iter().zip(&disks) {
        oracle::check_clean(image);
        oracle::identical(image, &disk.path);
    }
}
