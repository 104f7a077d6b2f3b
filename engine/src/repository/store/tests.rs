//! Opening a repository: what is refused, and that what lies in it is what counts.

use super::super::testing::{World, content, disk, options};
use super::super::{BackupKind, DiskRecord, LayerChecksums, Part};
use super::*;
use crate::chain::{Chain, ChainOptions};
use crate::storage::mem::{Fault, MemDirectory, Op, OpKind};

fn arc(dir: &MemDirectory) -> Arc<dyn Directory> {
    Arc::new(dir.clone())
}

#[test]
fn it_is_made_once_and_found_again() {
    let dir = MemDirectory::new();
    dir.create_dirs("lost+found").unwrap();
    let id = Repository::open_or_create(arc(&dir), options())
        .unwrap()
        .id();
    let again = Repository::open_or_create(arc(&dir), options()).unwrap();
    assert_eq!(again.id(), id);
    drop(again);
    assert_eq!(Repository::open(arc(&dir), options()).unwrap().id(), id);
}

#[test]
fn an_empty_directory_may_be_a_mount_point_without_its_mount() {
    let error = Repository::open(arc(&MemDirectory::new()), options()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.to_string().contains("mounted?"), "{error}");
}

#[test]
fn a_directory_that_holds_something_else_is_refused_and_left() {
    let dir = MemDirectory::new();
    dir.write_small("thesis.tex", b"mine").unwrap();
    dir.clear_log();
    let error = Repository::open_or_create(arc(&dir), options()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exists);
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(dir.log(), []);
}

#[test]
fn one_process_at_a_time() {
    let dir = MemDirectory::new();
    let first = Repository::open_or_create(arc(&dir), options()).unwrap();
    let error = Repository::open(arc(&dir), options()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Locked);
    assert!(error.to_string().contains("the test"), "{error}");
    let clone = first.clone();
    drop(first);
    assert!(Repository::open(arc(&dir), options()).is_err());
    drop(clone);
    Repository::open(arc(&dir), options()).unwrap();
}

#[test]
fn a_newer_format_and_a_damaged_file_are_refused() {
    let dir = MemDirectory::new();
    drop(Repository::open_or_create(arc(&dir), options()).unwrap());
    let bytes = dir.read_small(REPOSITORY_FILE, 1 << 20).unwrap();
    let newer = Format {
        version: 2,
        ..FORMAT
    };
    let file: RepositoryFile = sealed_json::decode(FORMAT, "x", &bytes).unwrap();
    let newer = sealed_json::encode(newer, &file).unwrap();
    let mut torn = bytes.clone();
    torn.truncate(bytes.len() / 2);
    for (bytes, kind) in [(newer, ErrorKind::Unsupported), (torn, ErrorKind::Damaged)] {
        let dir = MemDirectory::new();
        dir.create_dirs(META_DIR).unwrap();
        dir.write_small(REPOSITORY_FILE, &bytes).unwrap();
        let error = Repository::open_or_create(arc(&dir), options()).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[test]
fn a_creation_that_was_cut_off_is_gone_on_with() {
    let dir = MemDirectory::new();
    drop(Repository::open_or_create(arc(&dir), options()).unwrap());
    let ops = dir.log();
    for cut in 0..ops.len() {
        let dir = MemDirectory::replay(&ops[..cut]);
        let id = Repository::open_or_create(arc(&dir), options())
            .unwrap()
            .id();
        assert_eq!(Repository::open(arc(&dir), options()).unwrap().id(), id);
    }
}

#[test]
fn everything_reads_the_same_from_another_place() {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    let full = w.backup(BackupKind::Full, 0, 1);
    let last = w.backup(BackupKind::Incremental, 1, 2);
    let (vm, id) = (w.vm, w.repo.id());
    drop(w);
    let moved = MemDirectory::replay(&dir.log());
    let repo = Repository::open(arc(&moved), options()).unwrap();
    assert_eq!((repo.id(), repo.vms().unwrap()), (id, vec![vm]));
    assert_eq!(content(&repo, vm, last.id(), 0).unwrap(), [1, 2, 0, 0]);
    let points = repo.points(vm).unwrap();
    assert_eq!(points.all(), [full.clone(), last]);
    assert_eq!(repo.find(full.id()).unwrap(), Some(vm));
}

/// No file of a sealed point may be changed unnoticed, whichever it is.
#[test]
fn a_changed_file_is_noticed_before_it_is_used() {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    let full = w.backup(BackupKind::Full, 0, 1);
    let last = w.backup(BackupKind::Incremental, 1, 2);
    let (vm, ops) = (w.vm, dir.log());
    let read = |change: &dyn Fn(&MemDirectory, &DiskRecord)| {
        let dir = MemDirectory::replay(&ops);
        change(&dir, &full.disks[0]);
        let repo = Repository::open(arc(&dir), options()).unwrap();
        content(&repo, vm, last.id(), 0)
    };
    read(&|_, _| {}).unwrap();
    let flip = |dir: &MemDirectory, path: &str, at: u64| {
        let file = dir.open(path, Create::OpenWrite).unwrap();
        let mut byte = [0];
        file.read_at_blocking(at, &mut byte).unwrap();
        file.write_at_blocking(at, &[byte[0] ^ 4]).unwrap();
    };
    let path = |record: &DiskRecord, part| {
        let dir = super::super::disk_dir(record.vm_id, record.disk);
        format!("{dir}/{}", record.stem().unwrap().file(part))
    };
    for part in Part::ALL {
        for at in [0, 30, 200, 65536 + 7] {
            let changed = read(&|dir, record| flip(dir, &path(record, part), at));
            let error = changed.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{part:?} at {at}: {error}");
        }
        let cut = read(&|dir, record| {
            let file = dir.open(&path(record, part), Create::OpenWrite).unwrap();
            file.set_len(file.len().unwrap() - 1).unwrap();
        });
        assert_eq!(cut.unwrap_err().kind, ErrorKind::Damaged, "{part:?} cut");
        let gone = read(&|dir, record| dir.remove_file(&path(record, part)).unwrap());
        assert_eq!(gone.unwrap_err().kind, ErrorKind::Damaged, "{part:?} gone");
    }
}

#[test]
fn a_file_put_in_the_place_of_a_parent_is_not_followed() {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    let full = w.backup(BackupKind::Full, 0, 1);
    let other = w.backup(BackupKind::Full, 0, 7);
    let last = w.backup(BackupKind::Incremental, 1, 2);
    assert_eq!(w.content(last.id(), 0).unwrap(), [7, 2, 0, 0]);
    // The right name, a valid image, another content.
    let (from, to) = (full.disks[0].locator(), other.disks[0].locator());
    dir.remove_file(&to).unwrap();
    dir.rename(&from, &to).unwrap();
    assert_eq!(
        w.content(last.id(), 0).unwrap_err().kind,
        ErrorKind::Damaged
    );
}

#[test]
fn storage_that_fails_is_not_taken_for_absent() {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    w.backup(BackupKind::Full, 0, 1);
    let (vm, ops) = (w.vm, dir.log());
    for kind in [OpKind::List, OpKind::Open, OpKind::Read] {
        let dir = MemDirectory::replay(&ops);
        let repo = Repository::open(arc(&dir), options()).unwrap();
        dir.fail(Fault::next(kind));
        assert_eq!(repo.points(vm).unwrap_err().kind, ErrorKind::Io, "{kind:?}");
        assert_eq!(repo.points(vm).unwrap().all().len(), 1);
    }
}

#[test]
fn checked_reads_keep_few_checksums_in_memory() {
    let mut w = World::new(MemDirectory::new());
    let full = w.backup(BackupKind::Full, 0, 1);
    let layers = w.repo.layers(w.vm, full.id(), disk(0)).unwrap();
    let options = ChainOptions {
        checksums: Some(Arc::new(LayerChecksums::new(&layers))),
        ..ChainOptions::default()
    };
    let chain = Chain::open(&layers, options).unwrap();
    let mut bytes = vec![0; 512];
    for at in [0, 65536, 100] {
        chain.read_blocking(at, &mut bytes).unwrap();
    }
    assert_eq!(bytes[0], 1);
}

#[test]
fn a_directory_is_durable_before_anything_is_written_in_it() {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    dir.clear_log();
    let job = w.job();
    let growing = w.begin(&job, 0, BackupKind::Full).unwrap();
    let log = dir.log();
    let created = log
        .iter()
        .position(|op| matches!(op, Op::Create { .. }))
        .unwrap();
    let synced = |dir: &str| {
        let sync = |op: &Op| matches!(op, Op::SyncDir { path } if path == dir);
        log[..created].iter().any(sync)
    };
    assert!(synced("") && synced(&w.vm.to_string()));
    drop(growing);
}
