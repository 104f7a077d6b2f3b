//! Sources that change their size under the daemon's reading, and devices that are in use.

use std::fs::OpenOptions;
use std::path::Path;

use sendense_tests::command::run;
use sendense_tests::daemon::Daemon;
use sendense_tests::device::{Loop, Mount};
use sendense_tests::disk::Disk;
use sendense_tests::{backup, oracle};
use serde_json::{Value, json};

fn pull_request(source: &str, size: u64) -> Value {
    json!({
        "vm_name": "pulled", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": size, "source": format!("file:{source}") }],
    })
}

/// Pulls a source that `change` makes another size meanwhile: no point may come of it.
#[track_caller]
fn fails_with(dir: &Path, source: &str, size: u64, change: impl FnOnce()) {
    let config = format!("[sources]\nallow = [{source:?}]\n");
    let d = Daemon::start_with_config(&dir.join("data"), &config);
    let started = d.start_backup(&pull_request(source, size));
    change();
    let end = d.wait_job(&backup::id(&started));
    assert_eq!(end["status"], "failed", "{end}");
    let why = end["error_message"].as_str().unwrap();
    assert!(why.contains(&size.to_string()), "{end}");
    let list = d.get("/backup/list?vm_name=pulled&status=completed");
    let list = list.expect(200);
    assert_eq!(list["backups"], json!([]), "{list}");
}

#[test]
fn a_file_that_is_cut_or_extended_while_it_is_pulled_is_no_restore_point() {
    for (n, now) in [1 << 20, 401 << 20].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::scattered(&dir.path().join("disk.raw"), 400 << 20, 30, n as u64);
        let source = disk.path.to_str().unwrap().to_owned();
        fails_with(dir.path(), &source, 400 << 20, || disk.grow(now));
    }
}

#[test]
fn a_device_that_shrinks_while_it_is_pulled_is_no_restore_point() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 1 << 30, 5, 3);
    let device = Loop::over(&disk.path);
    fails_with(dir.path(), &device.0, 1 << 30, || {
        disk.grow(512 << 20);
        device.resized();
    });
}

#[test]
fn a_mounted_device_is_not_restored_over() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.img");
    Disk::empty(&target, 64 << 20);
    run("mkfs.ext4", &["-q", "-F", target.to_str().unwrap()]).ok();
    let device = Loop::over(&target);
    let config = format!("[targets]\nallow = [{:?}]\n", device.0);
    let d = Daemon::start_with_config(&dir.path().join("data"), &config);
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 60, 5);
    let id = backup::full(&d, "vm", &disk, "t");
    let request = json!({
        "backup_id": id, "disk_id": 0, "target": format!("file:{}", device.0),
        "format": "raw", "overwrite": true,
    });

    let mount = Mount::of(Path::new(&device.0), &dir.path().join("mnt"));
    std::fs::write(mount.0.join("precious"), b"data").unwrap();
    let refused = d.post("/restore/disk", &request).expect(409);
    assert_eq!(refused["code"], "busy", "{refused}");
    let said = refused["detail"].as_str().unwrap();
    assert!(
        said.contains("mounted") && said.contains(&device.0),
        "{said}"
    );
    run("umount", &[mount.0.to_str().unwrap()]).ok();
    run("e2fsck", &["-fn", target.to_str().unwrap()]).ok();

    // Nobody holds it any more: the same request is served.
    let job = d.post("/restore/disk", &request).expect(202);
    let end = d.wait_job(job["job_id"].as_str().unwrap());
    assert_eq!(end["status"], "completed", "{end}");
    drop(device);
    let restored = OpenOptions::new().write(true).open(&target).unwrap();
    restored.set_len(disk.size()).unwrap();
    oracle::same_bytes(&target, &disk.path);
}
