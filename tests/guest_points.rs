//! Every entry of every restore point: a machine with all volumes and file systems that we read,
//! pushed as a full and three incrementals, looked at by its own drivers and by us.

use std::path::Path;

use sendense_tests::command::{run, run_ours, text};
use sendense_tests::daemon::Daemon;
use sendense_tests::device::{Mount, NtfsMount};
use sendense_tests::disk::{Change, to_json};
use sendense_tests::guest::{Driver, Guest, Volume};
use sendense_tests::tree::{self, Told};
use sendense_tests::{backup, mover};
use serde_json::{Value, json};

/// All that a driver keeps of a name.
fn keys(driver: Driver) -> &'static [&'static str] {
    match driver {
        Driver::Kernel => &[
            "file_type",
            "mode",
            "uid",
            "gid",
            "modified",
            "accessed",
            "changed",
            "link",
            "xattrs",
            "links",
            "size",
            "device",
        ],
        Driver::Ntfs => &[
            "file_type",
            "modified",
            "accessed",
            "changed",
            "links",
            "size",
        ],
        Driver::Mtools => &["file_type", "size"],
    }
}

/// What of it an extraction to a Linux directory keeps.
fn extracted(driver: Driver) -> &'static [&'static str] {
    match driver {
        Driver::Kernel => &[
            "file_type",
            "mode",
            "uid",
            "gid",
            "modified",
            "link",
            "xattrs",
            "links",
            "size",
            "content",
            "device",
        ],
        Driver::Ntfs | Driver::Mtools => &["file_type", "modified", "size", "content"],
    }
}

/// Lets the volume's driver do the `n`th step on it, and tells what it then sees.
fn step(volume: &Volume, n: usize, dir: &Path) -> Told {
    let at = dir.join(format!("{}-{n}", volume.id));
    let act = |tree: &Path, posix| match n {
        0 => tree::fill(tree, posix),
        n => tree::change(tree, n, posix),
    };
    let mut seen = match volume.driver {
        Driver::Kernel => {
            let mount = Mount::with("noatime", &volume.file, &at);
            act(&mount.0, true);
            run("sync", &["-f", text(&mount.0)]).ok();
            tree::view(&mount.0)
        }
        Driver::Ntfs => {
            std::fs::create_dir(&at).unwrap();
            act(
                &NtfsMount::new("noatime,compression", &volume.file, &at).at,
                false,
            );
            // What the next mount sees, not what this one had in mind.
            tree::view(&NtfsMount::new("ro", &volume.file, &at).at)
        }
        Driver::Mtools => {
            let source = dir.join("fat.tree");
            if n == 0 {
                std::fs::create_dir(&source).unwrap();
            }
            act(&source, false);
            std::fs::create_dir(&at).unwrap();
            run(
                "sh",
                &[
                    "-c",
                    COPY,
                    "sh",
                    text(&volume.file),
                    text(&source),
                    text(&at),
                ],
            )
            .ok();
            tree::view(&at)
        }
    };
    seen.retain(|path, _| path != "/lost%2Bfound");
    seen
}

/// Puts the tree `$2` into the FAT `$1` instead of what is there, and reads it back to `$3`.
const COPY: &str = r#"export LC_ALL=C.UTF-8 TZ=UTC
    mdir -b -i "$1" ::/ | while read -r old; do mdeltree -i "$1" "${old%/}" || exit 1; done
    mcopy -s -m -Q -i "$1" "$2"/* ::/ && mcopy -s -m -n -Q -i "$1" "::/*" "$3""#;

/// Sends all disks, or what changed on them, and seals them as one point; its id.
fn push(daemon: &Daemon, guest: &Guest, n: usize, changes: &[Vec<Change>]) -> String {
    let disk = |(id, (disk, changes)): (usize, (_, &Vec<Change>))| -> Value {
        let disk: &sendense_tests::disk::Disk = disk;
        let mut told = json!({ "disk_id": id, "size_bytes": disk.size() });
        if n > 0 {
            told["base_change_id"] = format!("{id}/{}", n - 1).into();
            told["changes"] = to_json(changes);
        }
        told
    };
    let disks: Value = guest
        .disks
        .iter()
        .zip(changes)
        .enumerate()
        .map(disk)
        .collect();
    let kind = if n == 0 { "full" } else { "incremental" };
    let started = daemon.start_backup(&json!({
        "vm_name": "guest", "backup_type": kind, "repository": "local", "disks": disks,
    }));
    assert_eq!(started["backup_type"], kind, "{started}");
    for (id, (disk, changes)) in guest.disks.iter().zip(changes).enumerate() {
        let uri = backup::uri(&started, id);
        if n == 0 {
            mover::nbdcopy(disk, &uri).ok();
        } else {
            mover::send_changes(disk, &uri, changes, 2, n as u64);
        }
    }
    let tokens: Value = (0..guest.disks.len())
        .map(|id| json!({ "disk_id": id, "change_id": format!("{id}/{n}") }))
        .collect();
    let id = backup::id(&started);
    daemon.complete(&id, &tokens);
    id
}

/// Compares a volume of a point with what its driver saw then.
fn compare(daemon: &Daemon, id: &str, volume: &Volume, seen: &Told, dir: &Path) {
    let what = format!("{} of {id}", volume.id);
    let images = daemon.images(id);
    let images: Vec<&str> = images.iter().map(|image| text(image)).collect();
    let list = ["files", "--recursive", "--xattrs", "--output", "json"];
    let volume_id = ["--volume", volume.id];
    let listed = run_ours("sendense-image", &[&list[..], &volume_id, &images].concat()).ok();
    let mut listed = tree::listed(&listed.stdout, &dir.join("lines"));
    listed.retain(|path, _| !path.starts_with("/lost%2Bfound"));
    let keys = keys(volume.driver);
    tree::same(&tree::only(&listed, keys), &tree::only(seen, keys), &what);
    let out = dir.join("out");
    let extract = [
        "extract",
        "--file",
        "/*",
        "--special",
        "--output-dir",
        text(&out),
    ];
    run_ours(
        "sendense-image",
        &[&extract[..], &volume_id, &images].concat(),
    )
    .ok();
    let mut told = tree::view(&out);
    told.retain(|path, _| path != "/lost%2Bfound");
    let keys = extracted(volume.driver);
    tree::same(
        &tree::only(&told, keys),
        &tree::only(seen, keys),
        &format!("{what}, extracted"),
    );
    std::fs::remove_dir_all(out).unwrap();
}

#[test]
fn every_entry_of_every_point_is_what_the_guests_own_driver_saw() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let guest = Guest::make(dir.path());
    let mut points = Vec::new();
    for n in 0..4 {
        let seen: Vec<Told> = guest
            .volumes
            .iter()
            .map(|volume| step(volume, n, dir.path()))
            .collect();
        let changes = guest.settle();
        points.push((push(&daemon, &guest, n, &changes), seen));
    }
    for (n, (id, seen)) in points.iter().enumerate() {
        let read = guest.volumes.iter().zip(seen);
        // NTFS is not read yet.
        for (volume, seen) in read.filter(|(volume, _)| volume.driver != Driver::Ntfs) {
            assert!(
                seen.len() > 1000,
                "{} has only {} entries",
                volume.id,
                seen.len()
            );
            compare(&daemon, id, volume, seen, dir.path());
        }
        // The points differ, or their being right proves little.
        if let Some((_, before)) = n.checked_sub(1).and_then(|n| points.get(n)) {
            assert!(seen.iter().zip(before).all(|(now, then)| now != then));
        }
    }
}
