//! The same on a real file system: names, locks and syncs as the kernel does them.

use std::sync::Arc;

use super::testing::{World, content, disk, options};
use super::*;
use crate::ErrorKind;
use crate::storage::local::LocalDirectory;
use crate::storage::{Create, Directory, LockKind};

use BackupKind::{Differential, Full, Incremental};

fn world(root: &tempfile::TempDir) -> World {
    World::over(open(root), VmId::generate())
}

fn open(root: &tempfile::TempDir) -> Arc<dyn Directory> {
    LocalDirectory::open(root.path()).unwrap()
}

#[test]
fn a_chain_on_disk_survives_a_restart_a_move_and_deletes() {
    let root = tempfile::tempdir().unwrap();
    let mut w = world(&root);
    let full = w.backup(Full, 0, 1);
    let middle = w.backup(Incremental, 1, 2);
    let last = w.backup(Incremental, 0, 3);
    let diff = w.backup(Differential, 2, 4);
    let unfinished = w.job();
    let growing = w.begin(&unfinished, 0, Incremental).unwrap();
    assert_eq!(growing.file().len().unwrap(), 0);

    // A second daemon is kept out while the first one lives.
    let error = Repository::open(open(&root), options()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Locked);
    assert!(error.to_string().contains("the test"), "{error}");

    let path = growing.partial_path(Part::Image);
    let (vm, now) = (w.vm, w.now);
    drop((growing, w));
    // As kill -9 leaves it: unfinished, and nobody's lock on it.
    let dir = open(&root);
    dir.write_small(&path, b"half a cluster").unwrap();
    drop(dir);

    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    std::fs::rename(root.path(), &moved).unwrap();
    let repo = Repository::open(LocalDirectory::open(&moved).unwrap(), options()).unwrap();
    let w = World { repo, vm, now };
    let report = w.recover(&[&unfinished]);
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert!(!report.needs_attention(), "{report:?}");
    for (point, expected) in [
        (&full, [1, 0, 0, 0]),
        (&middle, [1, 2, 0, 0]),
        (&last, [3, 2, 0, 0]),
        (&diff, [1, 0, 4, 0]),
    ] {
        assert_eq!(w.content(point.id(), 0).unwrap(), expected);
    }
    let delete = |id: &BackupId| DeletePoint {
        vm,
        backup_id: id.clone(),
        with_dependents: true,
        dry_run: false,
    };
    w.repo.delete(&delete(middle.id())).unwrap();
    assert_eq!(w.files().len(), 8);
    w.repo.delete(&delete(full.id())).unwrap();
    assert!(w.files().is_empty());
    assert!(!moved.join(vm.to_string()).exists());
}

#[test]
fn locks_of_other_descriptors_are_seen() {
    let root = tempfile::tempdir().unwrap();
    let mut w = world(&root);
    let full = w.backup(Full, 0, 1);
    let delete = DeletePoint {
        vm: w.vm,
        backup_id: full.id().clone(),
        with_dependents: false,
        dry_run: false,
    };
    let layers = w.repo.layers(w.vm, full.id(), disk(0)).unwrap();
    let again = content(&w.repo, w.vm, full.id(), 0).unwrap();
    assert_eq!(
        again,
        [1, 0, 0, 0],
        "a second reader shares the first one's lock"
    );
    assert_eq!(w.repo.delete(&delete).unwrap_err().kind, ErrorKind::Busy);
    drop(layers);

    let other = open(&root);
    let image = other
        .open(&full.disks[0].locator(), Create::OpenRead)
        .unwrap();
    image.lock(LockKind::Reader).unwrap();
    assert_eq!(w.repo.delete(&delete).unwrap_err().kind, ErrorKind::Busy);
    // Readers of two processes go together.
    assert_eq!(w.content(full.id(), 0).unwrap(), [1, 0, 0, 0]);
    image.unlock().unwrap();

    let job = w.job();
    let growing = w.begin(&job, 0, Full).unwrap();
    let path = growing.partial_path(Part::Image);
    let same = other.open(&path, Create::OpenRead).unwrap();
    let refused = same.lock(LockKind::Reader).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::WouldBlock);
    growing.abort().unwrap();
    w.repo.delete(&delete).unwrap();
}

#[test]
fn a_link_in_the_place_of_an_image_is_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let mut w = world(&root);
    let full = w.backup(Full, 0, 1);
    let path = root.path().join(full.disks[0].locator());
    let aside = root.path().join("aside.qcow2");
    std::fs::rename(&path, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &path).unwrap();
    assert!(w.content(full.id(), 0).is_err());
}
