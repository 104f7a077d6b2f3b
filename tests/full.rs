//! Show 1: a real disk pushed by a real client into a full, sealed, judged by QEMU.

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::Disk;
use sendense_tests::{mover, oracle};
use serde_json::json;

#[test]
fn a_4_gib_disk_with_ext4_and_xfs_is_pushed_sealed_and_identical() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::with_file_systems(dir.path(), "disk.raw", 4 << 30, 1);

    let started = daemon.start_backup(&json!({
        "vm_name": "web1", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size() }],
    }));
    let id = started["backup_id"].as_str().unwrap();
    let uri = started["disks"][0]["nbd_uris"][0].as_str().unwrap();
    mover::nbdcopy(&disk, uri).ok();
    let sealed = daemon.complete(id, &json!([{ "disk_id": 0 }]));

    let image = &daemon.images(id)[0];
    oracle::check_clean(image);
    oracle::identical(image, &disk.path);
    let restored = dir.path().join("restored.raw");
    daemon.restore(id, 0, &restored);
    oracle::same_bytes(&restored, &disk.path);

    // Stored is the data, not the disk: within 5 % and some metadata of what the source holds.
    let stored = sealed["stored_bytes"].as_u64().unwrap();
    assert!(
        stored <= disk.allocated() * 105 / 100 + (16 << 20),
        "{stored} stored"
    );
    assert!(Disk::open(&restored).allocated() <= disk.allocated() * 105 / 100 + (16 << 20));
}
