//! Bad input of the spine: each gets one clear error, nothing is lost, the daemon stays alive.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sendense_tests::command::run;
use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random};
use sendense_tests::raw::{RawClient, WRITE};
use sendense_tests::{backup, mover, oracle};
use serde_json::json;

#[test]
fn a_push_that_ends_at_40_per_cent_is_refused_and_the_missing_range_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 10 << 20, 80, 1);
    let started = daemon.start_backup(&backup::full_request("vm", &disk));
    let ops: Vec<_> = (0..4)
        .map(|i| json!({ "conn": 0, "op": "write", "at": i << 20, "len": 1 << 20 }))
        .collect();
    mover::send(
        &disk.path,
        &backup::uri(&started, 0),
        &json!({ "connections": 1, "window": 4, "ops": ops }),
    );
    let id = backup::id(&started);
    let body = json!({ "disks": [{ "disk_id": 0 }] });
    let refused = daemon
        .post(&format!("/backup/{id}/complete?wait=30"), &body)
        .expect(409);
    assert_eq!(refused["code"], "incomplete_coverage", "{refused}");
    assert!(
        refused.to_string().contains(&(4u64 << 20).to_string()),
        "{refused}"
    );
    assert!(!refused["hint"].as_str().unwrap().is_empty(), "{refused}");
}

#[test]
fn the_wire_survives_writes_past_the_end_odd_edges_and_65_mib_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), (80 << 20) + 100, 30, 2);
    let started = daemon.start_backup(&backup::full_request("vm", &disk));
    let uri = backup::uri(&started, 0);
    let op = |op: &str, at: u64, len: u64| json!({ "conn": 0, "op": op, "at": at, "len": len });
    let plan = json!({ "connections": 1, "window": 1, "ops": [
        op("write", disk.size() - 10, 4096), op("zero", disk.size(), 512),
        op("write", 1, 3), op("write", 65_535, 2), op("write", disk.size() - 1, 1),
        op("write", 0, 64 << 20), op("trim", 3, 70_000), op("write", 0, 70_003),
    ]});
    let sent = mover::send(&disk.path, &uri, &plan);
    let errors: Vec<_> = sent
        .errors
        .iter()
        .map(|e| {
            (
                e["op"]["op"].as_str().unwrap(),
                e["errno"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(errors, [("write", "ENOSPC"), ("zero", "ENOSPC")]);
    // libnbd would not send it: longer than is served. The payload is drained, and the next request
    // is understood.
    let name = started["disks"][0]["export_name"].as_str().unwrap();
    let mut raw = RawClient::open(&daemon.nbd, name).unwrap();
    raw.send(WRITE, 0, 0, 65 << 20, &vec![7; 65 << 20]);
    assert_eq!(raw.error(), 22, "EINVAL");
    raw.send(WRITE, 0, 512, 512, &[7; 512]);
    assert_eq!(raw.error(), 0);
    drop(raw);
    mover::nbdcopy(&disk, &uri).ok();
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::identical(&daemon.images(&id)[0], &disk.path);
}

#[test]
fn unknown_busy_and_reserved_exports_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let ran = run(
        "nbdinfo",
        &[&format!("nbd://{}/backup-x-disk0-full-guess", daemon.nbd)],
    );
    assert_ne!(ran.code, 0);
    // A job's export is not listed.
    let disk = Disk::scattered(&dir.path().join("d"), 1 << 20, 80, 3);
    let started = daemon.start_backup(&backup::full_request("vm", &disk));
    let name = started["disks"][0]["export_name"].as_str().unwrap();
    assert!(name.len() <= 63 && name.starts_with("backup-"), "{name}");
    let list = run(
        "nbdinfo",
        &["--list", "--json", &format!("nbd://{}", daemon.nbd)],
    );
    assert!(!list.stdout.contains(name), "{}", list.stdout);
    // Its secret is in no log.
    let secret = name.rsplit('-').next().unwrap();
    assert!(!daemon.log().contains(secret));
}

#[test]
fn garbage_on_the_wire_never_kills_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let mut random = Random::new(77);
    for round in 0..60 {
        let mut s = TcpStream::connect(&daemon.nbd).unwrap();
        s.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut hello = [0; 18];
        let _ = s.read_exact(&mut hello);
        let mut bytes = vec![];
        if round % 3 > 0 {
            bytes.extend_from_slice(&[0, 0, 0, 3]);
        }
        if round % 3 == 2 {
            bytes.extend_from_slice(b"IHAVEOPT");
            bytes.extend_from_slice(&(random.below(14) as u32).to_be_bytes());
            bytes.extend_from_slice(&(random.below(40) as u32).to_be_bytes());
        }
        bytes.extend_from_slice(&random.bytes(200));
        let _ = s.write_all(&bytes);
        let _ = s.read(&mut [0; 512]);
    }
    daemon.get("/health").expect(200);
    let disk = Disk::scattered(&dir.path().join("d"), 2 << 20, 80, 4);
    backup::full(&daemon, "after", &disk, "t");
}

#[test]
fn rest_refuses_what_it_does_not_know_with_one_envelope() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let cases = [
        (
            "POST",
            "/backup/start",
            Some(json!({ "vm_name": "nobody", "backup_type": "full", "repository": "local" })),
            404,
        ),
        (
            "POST",
            "/backup/start",
            Some(json!({ "vm_name": "x", "backup_type": "weekly", "repository": "local" })),
            422,
        ),
        ("POST", "/backup/start", Some(json!({ "surprise": 1 })), 422),
        (
            "POST",
            "/backup/start",
            Some(
                json!({ "vm_name": "x", "backup_type": "full", "repository": "nowhere",
            "disks": [{ "disk_id": 0, "size_bytes": 512 }] }),
            ),
            404,
        ),
        ("GET", "/backup/backup-none-20250101000000", None, 404),
        (
            "POST",
            "/backup/backup-none-20250101000000/complete",
            Some(json!({ "disks": [] })),
            404,
        ),
        ("GET", "/no/such/route", None, 404),
        ("DELETE", "/health", None, 405),
    ];
    for (method, path, body, status) in cases {
        let answer = daemon.call(method, path, body.as_ref());
        let fits = answer.status == status || (status == 422 && answer.status == 400);
        assert!(fits, "{method} {path}: {} {}", answer.status, answer.body);
        for key in ["code", "detail", "status", "title"] {
            assert!(
                !answer.body[key].is_null(),
                "{method} {path}: no {key} in {}",
                answer.body
            );
        }
    }
    let token = std::fs::metadata(daemon.dir.join("admin.token")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&token.permissions()) & 0o777,
        0o600
    );
    let status = ureq::get(format!("{}/api/v1/vms", daemon.url))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .unwrap()
        .status();
    assert_eq!(status.as_u16(), 401);
}

#[test]
fn a_full_file_system_fails_the_backup_and_leaves_old_points_intact() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("small.img");
    Disk::empty(&image, 96 << 20);
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).ok();
    let mount = dir.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    run(
        "mount",
        &[
            "-o",
            "loop",
            image.to_str().unwrap(),
            mount.to_str().unwrap(),
        ],
    )
    .ok();
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
        }
    }
    let _unmount = Unmount(mount.clone());
    let daemon = Daemon::start(&mount.join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 16 << 20, 90, 5);
    let full = backup::full(&daemon, "vm", &disk, "u/0");

    let big = Disk::scattered(&dir.path().join("big"), 200 << 20, 90, 6);
    let answer = daemon.post("/backup/start", &backup::full_request("big", &big));
    if answer.status == 202 {
        let copied = mover::nbdcopy(&big, &backup::uri(&answer.body, 0));
        assert_ne!(copied.code, 0, "the mover hears of it");
        let id = backup::id(&answer.body);
        let body = json!({ "disks": [{ "disk_id": 0 }] });
        let refused = daemon.post(&format!("/backup/{id}/complete?wait=30"), &body);
        assert!(refused.status >= 400, "{}\n{}", refused.body, daemon.log());
        daemon.post(&format!("/backup/{id}/cancel"), &json!({}));
    } else {
        assert_eq!(answer.status, 507, "{}", answer.body);
    }
    oracle::identical(&daemon.images(&full)[0], &disk.path);
    // Space is back: the next backup works.
    let changes = [Change {
        at: 0,
        len: 65536,
        act: Act::Write,
    }];
    disk.apply(&changes, &mut Random::new(1));
    backup::delta(
        &daemon,
        "vm",
        "incremental",
        &disk,
        ("u/0", "u/1"),
        &changes,
    );
    drop(daemon);
}

#[test]
fn a_refused_start_leaves_the_machine_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 3 << 20, 80, 3);
    backup::full(&daemon, "vm", &disk, "t");
    let started = daemon.start_backup(&backup::full_request("vm", &disk));
    let mut other = backup::full_request("vm", &disk);
    other["disks"][0]["size_bytes"] = json!(777);
    daemon.post("/backup/start", &other).expect(409);
    daemon
        .post(
            &format!("/backup/{}/cancel", backup::id(&started)),
            &json!({}),
        )
        .expect(200);
    let plain = json!({ "vm_name": "vm", "backup_type": "full", "repository": "local" });
    let started = daemon.start_backup(&plain);
    assert_eq!(
        started["disks"][0]["size_bytes"],
        json!(disk.size()),
        "{started}"
    );
}

#[test]
fn a_repository_that_is_not_there_is_named_and_nothing_is_made_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 1 << 20, 80, 3);
    let id = backup::full(&daemon, "vm", &disk, "t");
    let (here, away) = (daemon.backups(), dir.path().join("away"));
    daemon.stop();
    std::fs::rename(&here, &away).unwrap();
    let start = || {
        sendense_tests::command::run_ours(
            "sendensed",
            &[
                "--data-dir",
                data.to_str().unwrap(),
                "--listen",
                "127.0.0.1:0",
                "--nbd-listen",
                "127.0.0.1:0",
            ],
        )
    };
    let missing = start();
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("backups"), "{}", missing.stderr);
    assert!(!here.exists());
    std::fs::create_dir(&here).unwrap();
    let empty = start();
    assert_ne!(empty.code, 0);
    assert!(empty.stderr.contains("mounted"), "{}", empty.stderr);
    assert_eq!(std::fs::read_dir(&here).unwrap().count(), 0);
    std::fs::remove_dir(&here).unwrap();
    std::fs::rename(&away, &here).unwrap();
    let daemon = Daemon::start(&data);
    oracle::identical(&daemon.images(&id)[0], &disk.path);
}

#[test]
fn a_change_list_that_is_cut_off_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    backup::full(&d, "vm", &disk, "u/0");
    let mut request = backup::delta_request("vm", "incremental", &disk, "u/0", &[]);
    request["disks"][0]
        .as_object_mut()
        .unwrap()
        .remove("changes");
    let started = d.start_backup(&request);
    let id = backup::id(&started);
    let path = format!("/backup/{id}/disks/0/changes");
    let changes = [Change {
        at: 65536,
        len: 512,
        act: Act::Write,
    }];
    d.call("PUT", &path, Some(&sendense_tests::disk::to_json(&changes)))
        .expect(200);

    // Each of these is a whole list already; only the length, or the last chunk, says that more
    // was to come.
    let list = r#"[{"offset":0,"length":8388608}]"#;
    for (length, body) in [
        ("Content-Length: 4000".to_owned(), list.to_owned()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{:x}\r\n{list}\r\n", list.len()),
        ),
    ] {
        let mut s = TcpStream::connect(d.url.trim_start_matches("http://")).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "PUT /api/v1{path} HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {}\r\n{length}\r\n\r\n",
            d.token()
        );
        s.write_all((head + &body).as_bytes()).unwrap();
        s.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        // The end of the connection says that the daemon is done with it.
        let _ = s.read_to_string(&mut answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{length}: {answer}");
    }
    let job = d.get(&format!("/jobs/{id}")).expect(200);
    assert_eq!(job["disks"][0]["total_bytes"], 512, "{job}");

    disk.apply(&changes, &mut Random::new(1));
    mover::send_changes(&disk, &backup::uri(&started, 0), &changes, 1, 1);
    let sealed = d.complete(&id, &json!([{ "disk_id": 0, "change_id": "u/1" }]));
    assert_eq!(sealed["covered_bytes"], 512, "{sealed}");
    oracle::identical(&d.images(&id)[0], &disk.path);
}
