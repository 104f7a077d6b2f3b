//! Sources that the daemon reads itself: `file:` and `nbd:`, beneath what the configuration allows.

use std::process::{Child, Command};

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{backup, command, oracle};
use serde_json::{Value, json};

fn daemon(dir: &std::path::Path) -> Daemon {
    let (src, socket) = (dir.join("src"), dir.join("s.sock"));
    std::fs::create_dir_all(&src).unwrap();
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    Daemon::start_with_config(
        &dir.join("data"),
        &format!(
            "[sources]
allow = [{src:?}, {uri:?}]
"
        ),
    )
}

fn request(kind: &str, disk: &Disk, source: &str) -> Value {
    json!({
        "vm_name": "pulled", "backup_type": kind, "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size(), "source": source }],
    })
}

#[test]
fn a_file_is_pulled_full_then_by_changes_then_by_comparing_with_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let disk = Disk::scattered(&dir.path().join("src/disk.raw"), (48 << 20) + 512, 40, 1);
    let source = format!("file:{}", disk.path.display());
    let mut full = request("full", &disk, &source);
    full["disks"][0]["change_id"] = json!("p/0");
    let started = d.start_backup(&full);
    assert_eq!(d.wait_job(&backup::id(&started))["status"], "completed");
    oracle::identical(&d.images(&backup::id(&started))[0], &disk.path);

    let changes = [
        Change {
            at: 1 << 20,
            len: 100_000,
            act: Act::Write,
        },
        Change {
            at: 20 << 20,
            len: 1 << 20,
            act: Act::Zero,
        },
    ];
    disk.apply(&changes, &mut Random::new(2));
    let mut incremental = request("incremental", &disk, &source);
    incremental["disks"][0]["base_change_id"] = json!("p/0");
    incremental["disks"][0]["change_id"] = json!("p/1");
    incremental["disks"][0]["changes"] = to_json(&changes);
    let started = d.start_backup(&incremental);
    assert_eq!(d.wait_job(&backup::id(&started))["status"], "completed");
    let image = &d.images(&backup::id(&started))[0];
    oracle::check_clean(image);
    oracle::identical(image, &disk.path);

    disk.apply(
        &[Change {
            at: 30 << 20,
            len: 512,
            act: Act::Write,
        }],
        &mut Random::new(3),
    );
    let mut compared = request("incremental", &disk, &source);
    compared["disks"][0]["base_change_id"] = json!("p/1");
    let started = d.start_backup(&compared);
    let end = d.wait_job(&backup::id(&started));
    assert_eq!(end["status"], "completed", "{end}");
    let image = &d.images(&backup::id(&started))[0];
    oracle::identical(image, &disk.path);
    assert!(
        std::fs::metadata(image).unwrap().len() < 2 << 20,
        "only what differs is stored"
    );
}

#[test]
fn an_nbd_source_is_pulled_and_a_source_outside_the_list_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let disk = Disk::scattered(&dir.path().join("elsewhere.raw"), 32 << 20, 40, 4);
    let outside = format!("file:{}", disk.path.display());
    let refused = d.post("/backup/start", &request("full", &disk, &outside));
    assert!(
        [403, 422].contains(&refused.status),
        "{} {}",
        refused.status,
        refused.body
    );
    let link = dir.path().join("src/link.raw");
    std::os::unix::fs::symlink(&disk.path, &link).unwrap();
    let linked = d.post(
        "/backup/start",
        &request("full", &disk, &format!("file:{}", link.display())),
    );
    assert!(
        linked.status >= 400 && linked.status < 500,
        "{} {}",
        linked.status,
        linked.body
    );

    let socket = dir.path().join("s.sock");
    let mut server: Child = Command::new("nbdkit")
        .args([
            "-f",
            "-r",
            "-U",
            socket.to_str().unwrap(),
            "file",
            disk.path.to_str().unwrap(),
        ])
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let started = d.start_backup(&request("full", &disk, &uri));
    let end = d.wait_job(&backup::id(&started));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(end["status"], "completed", "{end}");
    oracle::identical(&d.images(&backup::id(&started))[0], &disk.path);
}

#[test]
fn nobody_completes_a_disk_that_the_daemon_is_still_reading() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let disk = Disk::scattered(&dir.path().join("src/disk.raw"), 400 << 20, 30, 7);
    let source = format!("file:{}", disk.path.display());
    let started = d.start_backup(&request("full", &disk, &source));
    assert_eq!(d.wait_job(&backup::id(&started))["status"], "completed");
    let last = Change {
        at: 399 << 20,
        len: 65536,
        act: Act::Write,
    };
    disk.apply(&[last], &mut Random::new(8));
    let mut next = request("incremental", &disk, &source);
    next["disks"][0]["base_change_id"] = d
        .get(&format!("/backup/{}", backup::id(&started)))
        .expect(200)["disks"][0]["change_id"]
        .clone();
    let started = d.start_backup(&next);
    let id = backup::id(&started);
    for body in [json!({}), json!({ "disks": [{ "disk_id": 0 }] })] {
        let answer = d.post(&format!("/backup/{id}/complete"), &body);
        // Read to its end between two looks, it is sealed already, and whole.
        assert!([409, 200].contains(&answer.status), "{}", answer.body);
    }
    assert_eq!(d.wait_job(&id)["status"], "completed");
    oracle::identical(&d.images(&id)[0], &disk.path);
}

#[test]
fn a_source_that_is_an_image_in_a_format_of_its_own_is_refused_unless_raw_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let raw = Disk::scattered(&dir.path().join("raw"), 8 << 20, 40, 5);
    for format in ["qcow2", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
        let path = dir.path().join(format!("src/disk.{format}"));
        let (from, to) = (raw.path.to_str().unwrap(), path.to_str().unwrap());
        command::run(
            "qemu-img",
            &["convert", "-f", "raw", "-O", format, from, to],
        )
        .ok();
        let image = Disk::open(&path);
        let source = format!("file:{to}");
        let refused = d
            .post("/backup/start", &request("full", &image, &source))
            .expect(422);
        assert_eq!(refused["code"], "unsupported", "{refused}");
        let hint = refused["hint"].as_str().unwrap();
        assert!(hint.contains("source_format"), "{refused}");
        assert_eq!(d.get("/vms").expect(200)["vms"], json!([]));
    }
    // Over NBD, too: a server that serves the container.
    let image = Disk::open(&dir.path().join("src/disk.qcow2"));
    let socket = dir.path().join("s.sock");
    let mut server: Child = Command::new("nbdkit")
        .args(["-f", "-r", "-U", socket.to_str().unwrap(), "file"])
        .arg(&image.path)
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let refused = d.post("/backup/start", &request("full", &image, &uri));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(refused.expect(422)["code"], "unsupported");
    // Whoever says so gets the bytes as they are.
    let spec = format!("0,source=file:{},format=raw", image.path.display());
    let started = d
        .ctl(&[
            "backup", "start", "--vm", "image", "--disk", &spec, "--json",
        ])
        .ok()
        .json();
    assert_eq!(d.wait_job(&backup::id(&started))["status"], "completed");
    let out = dir.path().join("out");
    d.restore(&backup::id(&started), 0, &out);
    oracle::same_bytes(&out, &image.path);
}

#[test]
fn a_disk_that_the_daemon_reads_slowly_is_no_idle_job_beside_a_pushed_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let d = Daemon::start_with_config(
        &dir.path().join("data"),
        &format!("[sources]\nallow = [{uri:?}]\n[limits]\nidle_seconds = 2\n"),
    );
    let (pulled, pushed) = (dir.path().join("pulled"), dir.path().join("pushed"));
    let pulled = Disk::scattered(&pulled, 65536, 100, 4);
    let pushed = Disk::scattered(&pushed, 1 << 20, 100, 5);
    // One read is all that it takes, and that lasts longer than a job may be idle.
    let mut server: Child = Command::new("nbdkit")
        .args(["-f", "-r", "-U", socket.to_str().unwrap()])
        .args(["--filter=delay", "file", pulled.path.to_str().unwrap()])
        .arg("delay-read=7")
        .spawn()
        .unwrap();
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let started = d.start_backup(&json!({
        "vm_name": "mixed", "backup_type": "full", "repository": "local",
        "disks": [
            { "disk_id": 0, "size_bytes": pulled.size(), "source": uri },
            { "disk_id": 1, "size_bytes": pushed.size() },
        ],
    }));
    let id = backup::id(&started);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let job = d.get(&format!("/jobs/{id}")).expect(200);
    assert_eq!(job["status"], "running", "{job}");
    sendense_tests::mover::nbdcopy(&pushed, &backup::uri(&started, 1)).ok();
    d.post(&format!("/backup/{id}/complete"), &json!({}));
    let end = d.wait_job(&id);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(end["status"], "completed", "{end}");
    let images = d.images(&id);
    oracle::identical(&images[0], &pulled.path);
    oracle::identical(&images[1], &pushed.path);
}
