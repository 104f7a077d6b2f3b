//! Show 8 and 10: disks that grow, and layers of different sizes.

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{mover, oracle};
use serde_json::json;

#[test]
fn a_3_gib_disk_grows_to_5_gib_and_512_bytes_and_both_points_restore_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 3 << 30, 2, 21);
    let started = daemon.start_backup(&json!({
        "vm_name": "grows", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size() }],
    }));
    mover::nbdcopy(&disk, started["disks"][0]["nbd_uris"][0].as_str().unwrap()).ok();
    let first = started["backup_id"].as_str().unwrap().to_owned();
    daemon.complete(&first, &json!([{ "disk_id": 0, "change_id": "a" }]));
    let kept = disk.keep(&dir.path().join("kept"));

    disk.grow((5 << 30) + 512);
    let changes = [
        Change {
            at: (3 << 30) - 1024,
            len: 4096,
            act: Act::Write,
        },
        Change {
            at: 4 << 30,
            len: 3 << 20,
            act: Act::Write,
        },
        Change {
            at: 5 << 30,
            len: 512,
            act: Act::Write,
        },
    ];
    disk.apply(&changes, &mut Random::new(22));
    let started = daemon.start_backup(&json!({
        "vm_name": "grows", "backup_type": "incremental", "repository": "local",
        "disks": [{
            "disk_id": 0, "size_bytes": disk.size(), "base_change_id": "a", "changes": to_json(&changes),
        }],
    }));
    assert_eq!(started["backup_type"], "incremental", "{started}");
    mover::send_changes(
        &disk,
        started["disks"][0]["nbd_uris"][0].as_str().unwrap(),
        &changes,
        2,
        1,
    );
    let second = started["backup_id"].as_str().unwrap().to_owned();
    daemon.complete(&second, &json!([{ "disk_id": 0 }]));

    for (id, raw) in [(&first, &kept), (&second, &disk.path)] {
        let image = &daemon.images(id)[0];
        oracle::check_clean(image);
        oracle::identical(image, raw);
        let restored = dir.path().join("restored");
        daemon.restore(id, 0, &restored);
        oracle::same_bytes(&restored, raw);
        std::fs::remove_file(&restored).unwrap();
    }
}

#[test]
fn layers_large_over_small_over_large_read_as_qemu_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n);
    let run = |args: &[&str]| sendense_tests::command::run("qemu-img", args).ok();
    let at = |n: &str| path(n).to_str().unwrap().to_owned();
    run(&["create", "-q", "-f", "qcow2", &at("big"), "8M"]);
    oracle::qemu_io(&["-f", "qcow2", &at("big")], &["write -P 1 0 8M"]).ok();
    run(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "big",
        &at("small"),
        "3M",
    ]);
    oracle::qemu_io(&["-f", "qcow2", &at("small")], &["write -P 2 1M 1M"]).ok();
    run(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        "small",
        &at("top"),
        "10487296",
    ]);
    oracle::qemu_io(&["-f", "qcow2", &at("top")], &["write -P 3 5M 1M"]).ok();
    run(&[
        "convert",
        "-f",
        "qcow2",
        "-O",
        "raw",
        &at("top"),
        &at("theirs"),
    ]);
    sendense_tests::command::run_ours(
        "sendense-image",
        &["convert", "-O", "raw", &at("top"), &at("ours")],
    )
    .ok();
    oracle::same_bytes(&path("theirs"), &path("ours"));
    // Behind the end of the small layer the disk is zero, whatever lies deeper.
    assert!(
        Disk::open(&path("ours"))
            .read(3 << 20, 2 << 20)
            .iter()
            .all(|b| *b == 0)
    );
}
