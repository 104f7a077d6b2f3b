//! Show 2: five incrementals with every kind of change; each point stays exact.

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Change, Disk, Random, scattered_changes, to_json, touched_clusters};
use sendense_tests::{mover, oracle};
use serde_json::json;

const SIZE: u64 = 512 << 20;

fn push_full(daemon: &Daemon, disk: &Disk) -> String {
    let started = daemon.start_backup(&json!({
        "vm_name": "db1", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size() }],
    }));
    mover::nbdcopy(disk, started["disks"][0]["nbd_uris"][1].as_str().unwrap()).ok();
    let id = started["backup_id"].as_str().unwrap();
    daemon.complete(id, &json!([{ "disk_id": 0, "change_id": "u/0" }]));
    id.to_owned()
}

fn push_incremental(daemon: &Daemon, disk: &Disk, changes: &[Change], n: u64) -> String {
    let started = daemon.start_backup(&json!({
        "vm_name": "db1", "backup_type": "incremental", "repository": "local",
        "disks": [{
            "disk_id": 0, "size_bytes": disk.size(), "base_change_id": format!("u/{}", n - 1),
            "changes": to_json(changes),
        }],
    }));
    assert_eq!(started["backup_type"], "incremental", "{started}");
    let uri = started["disks"][0]["nbd_uris"][0].as_str().unwrap();
    mover::send_changes(disk, uri, changes, 4, n);
    let id = started["backup_id"].as_str().unwrap();
    daemon.complete(
        id,
        &json!([{ "disk_id": 0, "change_id": format!("u/{n}") }]),
    );
    id.to_owned()
}

#[test]
fn five_incrementals_of_scattered_changes_each_point_identical() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), SIZE, 40, 7);
    let mut points = vec![(
        push_full(&daemon, &disk),
        disk.keep(&dir.path().join("kept.0")),
    )];

    let mut random = Random::new(8);
    for n in 1..=5 {
        let changes = scattered_changes(SIZE, 5, &mut random);
        disk.apply(&changes, &mut random);
        let id = push_incremental(&daemon, &disk, &changes, n);
        let image = &daemon.images(&id)[0];
        let written = std::fs::metadata(image).unwrap().len();
        let budget = touched_clusters(&changes) * 110 / 100 + (1 << 20);
        assert!(
            written <= budget,
            "point {n}: {written} bytes for a budget of {budget}"
        );
        points.push((id, disk.keep(&dir.path().join(format!("kept.{n}")))));
    }

    for (id, kept) in &points {
        let image = &daemon.images(id)[0];
        oracle::check_clean(image);
        oracle::identical(image, kept);
        let restored = dir.path().join("restored.raw");
        daemon.restore(id, 0, &restored);
        oracle::same_bytes(&restored, kept);
        std::fs::remove_file(&restored).unwrap();
    }

    // The whole repository moved elsewhere is the same chain: names inside are relative.
    let images: Vec<_> = points
        .iter()
        .map(|(id, _)| daemon.images(id).remove(0))
        .collect();
    let old = daemon.backups();
    daemon.stop();
    let new = dir.path().join("moved elsewhere");
    std::fs::rename(&old, &new).unwrap();
    for ((_, kept), image) in points.iter().zip(images) {
        oracle::identical(&new.join(image.strip_prefix(&old).unwrap()), kept);
    }
}
