//! Show 11: several disks are one restore point, sealed together or not at all.

use sendense_tests::command::run;
use sendense_tests::daemon::Daemon;
use sendense_tests::device::Mount;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{backup, mover, oracle};
use serde_json::{Value, json};

fn three(dir: &std::path::Path, seed: u64) -> Vec<Disk> {
    (0..3)
        .map(|n| Disk::scattered(&dir.join(format!("d{n}")), (8 + n) << 20, 40, seed + n))
        .collect()
}

fn request(disks: &[Disk]) -> Value {
    let disks: Vec<Value> = disks
        .iter()
        .enumerate()
        .map(|(n, d)| json!({ "disk_id": n, "size_bytes": d.size(), "device_key": format!("{}", 2000 + n) }))
        .collect();
    json!({ "vm_name": "three", "backup_type": "full", "repository": "local", "disks": disks })
}

#[test]
fn three_disks_completed_one_by_one_become_one_point() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disks = three(dir.path(), 40);
    let started = daemon.start_backup(&request(&disks));
    let id = backup::id(&started);
    for (n, disk) in disks.iter().enumerate() {
        mover::nbdcopy(disk, &backup::uri(&started, n)).ok();
        let list = daemon.get("/backup/list?vm_name=three").expect(200);
        assert_eq!(
            list["backups"].as_array().unwrap().len(),
            0,
            "not sealed before the last disk"
        );
        let body = json!({ "disks": [{ "disk_id": n, "change_id": format!("c{n}") }] });
        let answer = daemon.post(&format!("/backup/{id}/complete?wait=60"), &body);
        assert!([200, 202].contains(&answer.status), "{}", answer.body);
        // The same again is fine, another token is not.
        let again = daemon.post(&format!("/backup/{id}/complete"), &body);
        assert!([200, 202].contains(&again.status), "{}", again.body);
        let other = json!({ "disks": [{ "disk_id": n, "change_id": "other" }] });
        daemon
            .post(&format!("/backup/{id}/complete"), &other)
            .expect(409);
    }
    let end = daemon.wait_job(&id);
    assert_eq!(end["status"], "completed", "{end}");
    for (image, disk) in daemon.images(&id).iter().zip(&disks) {
        oracle::check_clean(image);
        oracle::identical(image, &disk.path);
    }
}

#[test]
fn one_disk_that_was_not_sent_keeps_all_from_becoming_a_point() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disks = three(dir.path(), 50);
    let started = daemon.start_backup(&request(&disks));
    let id = backup::id(&started);
    for (n, disk) in disks.iter().take(2).enumerate() {
        mover::nbdcopy(disk, &backup::uri(&started, n)).ok();
    }
    let all = json!({ "disks": [{ "disk_id": 0 }, { "disk_id": 1 }, { "disk_id": 2 }] });
    let refused = daemon
        .post(&format!("/backup/{id}/complete?wait=60"), &all)
        .expect(409);
    assert_eq!(refused["code"], "incomplete_coverage", "{refused}");
    daemon
        .post(&format!("/backup/{id}/cancel"), &json!({}))
        .expect(200);
    let list = daemon.get("/backup/list?vm_name=three").expect(200);
    assert_eq!(list["backups"].as_array().unwrap().len(), 0, "{list}");
    let left = run(
        "find",
        &[daemon.backups().to_str().unwrap(), "-name", "*.qcow2*"],
    );
    assert_eq!(left.stdout, "", "nothing of a cancelled backup stays");
    // And the next full is not in anybody's way.
    let started = daemon.start_backup(&request(&disks));
    for (n, disk) in disks.iter().enumerate() {
        mover::nbdcopy(disk, &backup::uri(&started, n)).ok();
    }
    daemon.complete(&backup::id(&started), &all["disks"]);
}

#[test]
fn one_disk_whose_storage_fails_ends_all_three_and_leaves_the_old_point() {
    let dir = tempfile::tempdir().unwrap();
    let small = Mount::small(dir.path(), 128 << 20);
    let daemon = Daemon::start(&small.0.join("data"));
    let mut disks = three(dir.path(), 70);
    let tokens: Value = (0..3)
        .map(|n| json!({ "disk_id": n, "change_id": format!("old/{n}") }))
        .collect();
    let send =
        |started: &Value, n: usize, disk: &Disk| mover::nbdcopy(disk, &backup::uri(started, n));
    let started = daemon.start_backup(&request(&disks));
    for (n, disk) in disks.iter().enumerate() {
        send(&started, n, disk).ok();
    }
    let old = backup::id(&started);
    daemon.complete(&old, &tokens);

    // The next one: a disk is complete, a disk was sent, and the third finds no room.
    let third = std::mem::replace(
        &mut disks[2],
        Disk::scattered(&dir.path().join("big"), 256 << 20, 90, 80),
    );
    let started = daemon.start_backup(&request(&disks));
    let id = backup::id(&started);
    send(&started, 0, &disks[0]).ok();
    let first = json!({ "disks": [{ "disk_id": 0, "change_id": "new/0" }] });
    daemon
        .post(&format!("/backup/{id}/complete?wait=60"), &first)
        .expect(202);
    send(&started, 1, &disks[1]).ok();
    let third_sent = send(&started, 2, &disks[2]);
    assert_ne!(third_sent.code, 0, "the mover hears of it");
    let end = daemon.wait_job(&id);
    assert_eq!(end["status"], "failed", "{end}");
    let shown = daemon.get(&format!("/backup/{id}")).expect(200);
    assert_eq!(shown["error_code"], "no_space", "{shown}");

    let list = daemon.get("/backup/list?vm_name=three&status=completed");
    let list = list.expect(200);
    assert_eq!(list["backups"].as_array().unwrap().len(), 1, "{list}");
    let chain = daemon.get("/backup/chain?vm_name=three").expect(200);
    for disk in chain["disks"].as_array().unwrap() {
        assert_eq!(disk["latest_backup_id"], json!(old), "{chain}");
    }
    let backups = daemon.backups();
    let find = |name: &str| run("find", &[backups.to_str().unwrap(), "-name", name]).ok();
    assert_eq!(find("*.partial").stdout, "", "all three have gone");
    let images = daemon.images(&old);
    let left = find("*.qcow2*").stdout;
    assert_eq!(left.lines().count(), images.len(), "{left}");
    disks[2] = third;
    for (image, disk) in images.iter().zip(&disks) {
        oracle::identical(image, &disk.path);
    }
    // The room is there again, and the old tokens are the base of what comes next.
    let mut next = request(&disks);
    next["backup_type"] = json!("incremental");
    for n in 0..3 {
        next["disks"][n]["base_change_id"] = json!(format!("old/{n}"));
        next["disks"][n]["changes"] = json!([]);
    }
    let started = daemon.start_backup(&next);
    daemon.complete(
        &backup::id(&started),
        &json!([{ "disk_id": 0 }, { "disk_id": 1 }, { "disk_id": 2 }]),
    );
    drop(daemon);
}

#[test]
fn a_disk_added_another_removed_and_the_order_changed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disks = three(dir.path(), 60);
    let entry = |n: u64, disk: &Disk| json!({ "disk_id": n, "size_bytes": disk.size(), "device_key": format!("{}", 2000 + n) });
    let request = |kind: &str, list: Value| json!({ "vm_name": "moves", "backup_type": kind, "repository": "local", "disks": list });
    let started = daemon.start_backup(&request(
        "full",
        json!([entry(0, &disks[0]), entry(1, &disks[1])]),
    ));
    mover::nbdcopy(&disks[0], &backup::uri(&started, 0)).ok();
    mover::nbdcopy(&disks[1], &backup::uri(&started, 1)).ok();
    let first = backup::id(&started);
    daemon.complete(
        &first,
        &json!([{ "disk_id": 0, "change_id": "a/0" }, { "disk_id": 1, "change_id": "b/0" }]),
    );
    let kept = disks[1].keep(&dir.path().join("kept"));

    // Disk 0 is gone, disk 2 is new, and the list's order is another one.
    let changes = [Change {
        at: 1 << 20,
        len: 65536,
        act: Act::Write,
    }];
    disks[1].apply(&changes, &mut Random::new(1));
    let mut changed = entry(1, &disks[1]);
    changed["base_change_id"] = json!("b/0");
    changed["changes"] = to_json(&changes);
    let started = daemon.start_backup(&request(
        "incremental",
        json!([entry(2, &disks[2]), changed]),
    ));
    let kinds: Vec<(u64, String)> = started["disks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let kind = d["backup_type"].as_str().unwrap().to_owned();
            (d["disk_id"].as_u64().unwrap(), kind)
        })
        .collect();
    let expected = [(1, "incremental".to_owned()), (2, "full".to_owned())];
    assert_eq!(kinds, expected, "{started}");
    mover::send_changes(&disks[1], &backup::uri(&started, 0), &changes, 1, 1);
    mover::nbdcopy(&disks[2], &backup::uri(&started, 1)).ok();
    let second = backup::id(&started);
    daemon.complete(&second, &json!([{ "disk_id": 1 }, { "disk_id": 2 }]));

    let images = daemon.images(&second);
    oracle::identical(&images[0], &disks[1].path);
    oracle::identical(&images[1], &disks[2].path);
    let old = daemon.images(&first);
    oracle::identical(&old[0], &disks[0].path);
    oracle::identical(&old[1], &kept);
}
