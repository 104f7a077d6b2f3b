//! Show 7: QEMU's tools and our locks, both ways (anchors: exclusive while growing, reader when
//! sealed and open).

use sendense_tests::command::{run, run_ours};
use sendense_tests::daemon::Daemon;
use sendense_tests::disk::Disk;
use sendense_tests::{backup, mover};
use serde_json::json;

fn partial(daemon: &Daemon) -> std::path::PathBuf {
    fn walk(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for e in std::fs::read_dir(dir).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.to_string_lossy().contains(".qcow2") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&daemon.backups(), &mut found);
    found
        .into_iter()
        .find(|p| p.to_string_lossy().ends_with(".partial"))
        .unwrap()
}

#[test]
fn qemu_is_refused_on_a_growing_image_even_with_force_share() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 2);
    let started = daemon.start_backup(&backup::full_request("l", &disk));
    mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    let growing = partial(&daemon);
    let path = growing.to_str().unwrap();
    for args in [
        &["-r", "-f", "raw", path][..],
        &["-f", "raw", path],
        &["-U", "-r", "-f", "raw", path],
    ] {
        let ran = sendense_tests::oracle::qemu_io(args, &["read 0 512"]);
        assert!(
            ran.stderr.contains("lock"),
            "{args:?}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    // No magic yet: nobody can mistake it for an image.
    assert_eq!(&std::fs::read(&growing).unwrap()[..4], &[0; 4]);
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    run(
        "qemu-img",
        &[
            "info",
            "-f",
            "qcow2",
            daemon.images(&id)[0].to_str().unwrap(),
        ],
    )
    .ok();
}

#[test]
fn an_exported_point_admits_readers_and_refuses_writers() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 3);
    let id = backup::full(&daemon, "l", &disk, "t");
    let image = daemon.images(&id).remove(0);
    let path = image.to_str().unwrap();
    daemon
        .post("/restore/export", &json!({ "backup_id": id, "disk_id": 0 }))
        .expect(201);
    sendense_tests::oracle::qemu_io(&["-r", "-f", "qcow2", path], &["read 0 512"]).ok();
    run("qemu-img", &["check", "-f", "qcow2", path]).ok();
    let ran = sendense_tests::oracle::qemu_io(&["-f", "qcow2", path], &["write 0 512"]);
    assert!(ran.stderr.contains("lock"), "{}{}", ran.stdout, ran.stderr);
    for args in [
        &["resize", "-f", "qcow2", path, "+1M"][..],
        &["create", "-f", "qcow2", path, "1M"],
    ] {
        let ran = run("qemu-img", args);
        assert!(
            ran.code != 0 && ran.stderr.contains("lock"),
            "{args:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn an_image_that_qemu_writes_is_refused_here() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("theirs.qcow2");
    let path = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "8M"]).ok();
    let socket = dir.path().join("q.sock");
    let mut server = std::process::Command::new("qemu-nbd")
        .args(["-t", "-f", "qcow2", "-k", socket.to_str().unwrap(), path])
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let repair = run_ours("sendense-image", &["check", "-r", "leaks", path]);
    let read = run_ours("sendense-image", &["map", path]);
    server.kill().unwrap();
    server.wait().unwrap();
    for ran in [repair, read] {
        assert_ne!(ran.code, 0, "{}", ran.stdout);
        assert!(
            ran.stderr.contains("lock") || ran.stderr.contains("open"),
            "{}",
            ran.stderr
        );
    }
    run_ours("sendense-image", &["map", path]).ok();
}
