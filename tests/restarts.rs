//! What a daemon finds when it starts again: a push that was killed, a lost manifest, another clock.

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random};
use sendense_tests::{backup, mover, oracle};
use serde_json::json;

#[test]
fn kill_minus_9_during_a_push_leaves_old_points_and_no_orphan() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 32 << 20, 60, 1);
    let ids = backup::chain_of_three(&d, &disk);
    let started = d.start_backup(&backup::full_request("vm", &disk));
    let pause = dir.path().join("pause");
    std::fs::write(&pause, "").unwrap();
    let ops: Vec<_> = (0..20)
        .map(|i| json!({ "conn": 0, "op": "write", "at": i << 20, "len": 1 << 20 }))
        .collect();
    let plan = json!({ "connections": 1, "window": 4, "pause": pause, "ops": ops });
    let mut client = mover::spawn(&disk.path, &backup::uri(&started, 0), &plan);
    std::thread::sleep(std::time::Duration::from_millis(300));
    d.kill();
    let _ = client.kill();
    let _ = client.wait();

    let d = Daemon::start(&data);
    let list = d.get("/backup/list?vm_name=vm").expect(200);
    assert_eq!(list["backups"].as_array().unwrap().len(), 3, "{list}");
    for id in &ids {
        oracle::check_clean(&d.images(id)[0]);
    }
    oracle::identical(&d.images(&ids[2])[0], &disk.path);
    let left =
        sendense_tests::command::run("find", &[data.to_str().unwrap(), "-name", "*.partial"]);
    assert_eq!(left.stdout, "", "no orphan stays");
    backup::full(&d, "vm", &disk, "u/7");
}

#[test]
fn a_point_that_lost_its_manifest_is_put_aside_and_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    let ids = backup::chain_of_three(&d, &disk);
    let last = ids[2].clone();
    let image = d.images(&last)[0].clone();
    d.stop();
    let points = image.parent().unwrap().with_file_name("points");
    std::fs::remove_file(points.join(format!("{last}.json"))).unwrap();

    let d = Daemon::start(&data);
    assert!(!image.exists());
    assert_eq!(
        d.get(&format!("/backup/{last}")).expect(200)["missing"],
        true
    );
    let listed = d.get("/repositories/local/quarantine").expect(200);
    let find = &listed["finds"][0];
    assert_eq!(find["backup_id"], json!(last), "{listed}");
    assert_eq!(
        (&find["adoptable"], &find["why_not"]),
        (&json!(true), &json!(null))
    );
    assert_eq!(
        (&find["parent_backup_id"], &find["disk_id"]),
        (&json!(ids[1]), &json!(0))
    );
    let table = d.ctl(&["repo", "quarantine", "--repository", "local"]).ok();
    assert!(table.stdout.contains(&last), "{}", table.stdout);
    d.post(
        "/repositories/local/quarantine/backup-no-20251004120000/adopt",
        &json!({}),
    )
    .expect(404);

    d.ctl(&["repo", "adopt", &last]).ok();
    assert_eq!(d.images(&last)[0], image);
    oracle::identical(&image, &disk.path);
    let shown = d.get(&format!("/backup/{last}")).expect(200);
    assert_eq!(
        (&shown["missing"], &shown["status"]),
        (&json!(false), &json!("completed"))
    );
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    assert_eq!(
        chain["disks"][0]["latest_backup_id"],
        json!(last),
        "{chain}"
    );
    assert_eq!(chain["disks"][0]["total_backups"], 3);
    assert_eq!(
        d.get("/repositories/local/quarantine").expect(200)["finds"],
        json!([])
    );
    // The next one builds on it.
    let changes = [Change {
        at: 5 << 20,
        len: 65536,
        act: Act::Write,
    }];
    disk.apply(&changes, &mut Random::new(9));
    let next = backup::delta(&d, "vm", "incremental", &disk, ("u/2", "u/3"), &changes);
    oracle::identical(&d.images(&next)[0], &disk.path);

    // Once the chain has moved on, what is put aside stays there, and the reason is told.
    d.stop();
    std::fs::remove_file(points.join(format!("{next}.json"))).unwrap();
    let d = Daemon::start(&data);
    let again = backup::delta(&d, "vm", "incremental", &disk, ("u/2", "u/3"), &changes);
    let refused = d
        .post(
            &format!("/repositories/local/quarantine/{next}/adopt"),
            &json!({}),
        )
        .expect(409);
    assert!(
        refused["detail"].as_str().unwrap().contains("moved on"),
        "{refused}"
    );
    let listed = d.get("/repositories/local/quarantine").expect(200);
    assert_eq!(listed["finds"][0]["adoptable"], false, "{listed}");
    oracle::identical(&d.images(&again)[0], &disk.path);
}

/// Runs SQL on the catalog of a daemon that is stopped.
fn in_catalog(data: &std::path::Path, sql: &str) {
    let catalog = std::fs::read_dir(data)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "db" || e == "sqlite"))
        .expect("a catalog");
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n\
                  assert c.execute(sys.argv[2]).rowcount > 0\nc.commit()";
    let args = ["-c", script, catalog.to_str().unwrap(), sql];
    sendense_tests::command::run("/usr/bin/python3", &args).ok();
}

#[test]
fn a_clock_set_back_an_hour_puts_no_point_behind_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    let ids = backup::chain_of_three(&d, &disk);
    d.stop();
    // What was made so far was made by a clock that ran an hour ahead.
    in_catalog(
        &data,
        "UPDATE backup_jobs SET created_at = created_at + 3600000000, \
         started_at = started_at + 3600000000",
    );
    let d = Daemon::start(&data);
    let changes = [Change {
        at: 5 << 20,
        len: 65536,
        act: Act::Write,
    }];
    disk.apply(&changes, &mut Random::new(9));
    let next = backup::delta(&d, "vm", "incremental", &disk, ("u/2", "u/3"), &changes);
    let shown = d.get("/backup/latest?vm_name=vm").expect(200);
    assert_eq!(shown["backup_id"], json!(next), "{shown}");
    assert_eq!(shown["parent_backup_id"], json!(ids[2]));
    let list = d.get("/backup/list?vm_name=vm").expect(200);
    let listed: Vec<&str> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["backup_id"].as_str().unwrap())
        .collect();
    assert_eq!(listed, [&next, &ids[2], &ids[1], &ids[0]]);
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    let order: Vec<&str> = chain["disks"][0]["chains"][0]["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["backup_id"].as_str().unwrap())
        .collect();
    assert_eq!(order, [&ids[0], &ids[1], &ids[2], &next]);
    oracle::identical(&d.images(&next)[0], &disk.path);
}
