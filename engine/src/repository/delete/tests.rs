//! Deleting: refused while anybody needs it, whole or gone whatever crashes or fails.

use super::super::testing::{World, content, disk, options};
use super::super::*;
use super::*;
use crate::storage::mem::{Fault, MemDirectory, OpKind};

use BackupKind::{Differential, Full, Incremental};

fn world() -> (MemDirectory, World) {
    let dir = MemDirectory::new();
    (dir.clone(), World::new(dir))
}

fn request(w: &World, point: &RestorePoint) -> DeletePoint {
    DeletePoint {
        vm: w.vm,
        backup_id: point.id().clone(),
        with_dependents: false,
        dry_run: false,
    }
}

#[test]
fn the_middle_of_a_chain_is_refused_and_names_what_needs_it() {
    let (_, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let middle = w.backup(Incremental, 1, 2);
    let last = w.backup(Incremental, 2, 3);
    let diff = w.backup(Differential, 3, 4);
    let before = w.files();
    let mut ask = request(&w, &middle);
    let error = w.repo.delete(&ask).unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::HasDependents(vec![last.id().to_string()])
    );
    assert!(error.to_string().contains(last.id().as_str()));

    ask.with_dependents = true;
    ask.dry_run = true;
    let told = w.repo.delete(&ask).unwrap();
    assert_eq!(w.files(), before);
    ask.dry_run = false;
    let done = w.repo.delete(&ask).unwrap();
    assert_eq!(
        told,
        Deletion {
            dry_run: true,
            ..done.clone()
        }
    );
    let ids: Vec<_> = done.points.iter().map(|p| &p.backup_id).collect();
    assert_eq!(ids, [last.id(), middle.id()]);
    assert_eq!(done.bytes, done.points.iter().map(|p| p.bytes).sum::<u64>());
    assert!(done.bytes > 2 * 65536);
    assert_eq!(done.heads, [], "the differential stays the newest");

    assert_eq!(w.content(diff.id(), 0).unwrap(), [1, 0, 0, 4]);
    assert_eq!(w.content(full.id(), 0).unwrap(), [1, 0, 0, 0]);
    assert_eq!(w.files().len(), 8);
    assert_eq!(w.repo.delete(&ask).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn deleting_the_head_moves_it_back_and_the_next_builds_on_that() {
    let (_, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let head = w.backup(Incremental, 1, 2);
    let done = w.repo.delete(&request(&w, &head)).unwrap();
    let token = full.disks[0].token.clone();
    let to = Some((full.id().clone(), token));
    assert_eq!(done.heads, [MovedHead { disk: disk(0), to }]);
    let next = w.backup(Incremental, 2, 3);
    assert_eq!(w.content(next.id(), 0).unwrap(), [1, 0, 3, 0]);
}

#[test]
fn the_last_point_leaves_no_directory_behind() {
    let (dir, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let note = StateEntry {
        at: w.now,
        event: StateEvent::Verified {
            ok: true,
            bytes: 1,
            detail: String::new(),
        },
    };
    w.repo.add_note(w.vm, full.id(), &note).unwrap();
    w.repo.add_note(w.vm, full.id(), &note).unwrap();
    assert_eq!(w.repo.notes(w.vm, full.id()).unwrap().entries.len(), 2);
    let done = w.repo.delete(&request(&w, &full)).unwrap();
    assert_eq!(
        done.heads,
        [MovedHead {
            disk: disk(0),
            to: None
        }]
    );
    assert_eq!(w.repo.vms().unwrap(), []);
    assert_eq!(dir.list("").unwrap().len(), 1);
    let error = w.repo.add_note(w.vm, full.id(), &note).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[test]
fn what_is_read_or_built_on_stays() {
    let (dir, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let ask = request(&w, &full);
    let layers = w.repo.layers(w.vm, full.id(), disk(0)).unwrap();
    // One open file for all readers of this process.
    let again = w.repo.layers(w.vm, full.id(), disk(0)).unwrap();
    assert!(Arc::ptr_eq(&layers[0].file, &again[0].file));
    drop(again);
    assert_eq!(w.repo.delete(&ask).unwrap_err().kind, ErrorKind::Busy);
    drop(layers);

    let job = w.job();
    let growing = w.begin(&job, 0, Incremental).unwrap();
    let error = w.repo.delete(&ask).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.to_string().contains(job.as_str()), "{error}");
    drop(growing);

    let image = dir
        .open(&full.disks[0].locator(), Create::OpenRead)
        .unwrap();
    image.lock(LockKind::Reader).unwrap();
    assert_eq!(w.repo.delete(&ask).unwrap_err().kind, ErrorKind::Busy);
    image.unlock().unwrap();
    w.repo.delete(&ask).unwrap();
}

/// A crash between any two operations: each point is whole or gone, and recovery ends what began.
#[test]
fn a_crash_in_mid_delete_leaves_whole_points_or_none() {
    let (dir, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let middle = w.backup(Incremental, 1, 2);
    let last = w.backup(Incremental, 2, 3);
    let settled = dir.log().len();
    let mut ask = request(&w, &middle);
    ask.with_dependents = true;
    w.repo.delete(&ask).unwrap();
    let ops = dir.log();
    for cut in settled..=ops.len() {
        let dir = MemDirectory::replay(&ops[..cut]);
        let repo = Repository::open_or_create(Arc::new(dir), options()).unwrap();
        let report = repo
            .recover(&Default::default(), std::time::Duration::ZERO)
            .unwrap();
        assert!(!report.needs_attention(), "cut at {cut}: {report:?}");
        let points = repo.points(w.vm).unwrap();
        let there: Vec<bool> = [&full, &middle, &last]
            .iter()
            .map(|point| {
                let there = points.get(point.id()).is_ok();
                if there {
                    content(&repo, w.vm, point.id(), 0).unwrap();
                }
                there
            })
            .collect();
        assert!(
            there[0] && (there[1] || !there[2]),
            "cut at {cut}: {there:?}"
        );
        let w = World {
            repo,
            vm: w.vm,
            now: w.now,
        };
        let points = there.iter().filter(|t| **t).count();
        assert_eq!(w.files().len(), 4 * points, "cut at {cut}: {:?}", w.files());
    }
}

#[test]
fn whatever_fails_in_mid_delete_recovery_ends_it() {
    let kinds = [
        OpKind::Rename,
        OpKind::SyncDir,
        OpKind::RemoveFile,
        OpKind::Lock,
    ];
    for kind in kinds {
        for after in 0.. {
            let (dir, mut w) = world();
            let full = w.backup(Full, 0, 1);
            let last = w.backup(Incremental, 1, 2);
            dir.fail(Fault {
                after,
                ..Fault::next(kind)
            });
            let result = w.repo.delete(&request(&w, &last));
            dir.heal();
            if result.is_ok() {
                break;
            }
            let known = Default::default();
            let report = w.repo.recover(&known, std::time::Duration::ZERO).unwrap();
            assert!(!report.needs_attention(), "{kind:?} {after}: {report:?}");
            assert_eq!(w.content(full.id(), 0).unwrap(), [1, 0, 0, 0]);
            let there = w.repo.points(w.vm).unwrap().get(last.id()).is_ok();
            assert_eq!(
                w.files().len(),
                if there { 8 } else { 4 },
                "{kind:?} {after}"
            );
            w.backup(Incremental, 2, 3);
        }
    }
}

#[test]
fn on_a_full_file_system_the_reserve_is_given_up() {
    let (dir, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let has_reserve = |dir: &MemDirectory| dir.inode(".sendense/reserve").is_ok();
    assert!(has_reserve(&dir));
    dir.fail(Fault {
        errno: libc::ENOSPC,
        ..Fault::next(OpKind::Rename)
    });
    dir.set_space_left(0);
    w.repo.delete(&request(&w, &full)).unwrap();
    assert!(!has_reserve(&dir), "no room to make it again");
    dir.heal();
    let next = w.backup(Full, 0, 1);
    w.repo.delete(&request(&w, &next)).unwrap();
    assert!(has_reserve(&dir));
}

/// What a torn page leaves: the name, and content that no longer fits its checksum.
fn tear(dir: &MemDirectory, path: &str) {
    let file = dir.open(path, Create::OpenWrite).unwrap();
    file.write_at_blocking(40, b"torn").unwrap();
}

#[test]
fn two_damaged_points_do_not_block_each_other() {
    let (dir, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let first = w.backup(Incremental, 1, 2);
    let second = w.backup(Incremental, 2, 3);
    let third = w.backup(Incremental, 3, 4);
    for point in [&first, &second] {
        tear(&dir, &manifest_path(w.vm, point.id()));
    }
    let vm = w.vm;
    drop(w);
    let w = World::over(Arc::new(dir), vm);
    // What builds on a whole point is not known: it stays, whatever is asked.
    for with_dependents in [false, true] {
        let asked = DeletePoint {
            with_dependents,
            ..request(&w, &full)
        };
        let refused = w.repo.delete(&asked).unwrap_err();
        let ids = vec![first.id().to_string(), second.id().to_string()];
        assert_eq!(refused.kind, ErrorKind::HasDependents(ids));
        assert!(refused.to_string().contains("first"), "{refused}");
    }
    // A damaged one alone is refused, and told how it goes.
    let refused = w.repo.delete(&request(&w, &first)).unwrap_err();
    let ids = vec![second.id().to_string()];
    assert_eq!(refused.kind, ErrorKind::HasDependents(ids));
    assert!(refused.to_string().contains("with_dependents"), "{refused}");
    assert!(refused.to_string().contains("checksum"), "{refused}");

    let mut asked = DeletePoint {
        with_dependents: true,
        dry_run: true,
        ..request(&w, &first)
    };
    let told = w.repo.delete(&asked).unwrap();
    let ids =
        |d: &Deletion| -> Vec<BackupId> { d.points.iter().map(|p| p.backup_id.clone()).collect() };
    assert_eq!(
        ids(&told),
        [third.id().clone(), second.id().clone(), first.id().clone()]
    );
    assert_eq!(w.repo.points(vm).unwrap().damaged().len(), 2);
    asked.dry_run = false;
    assert_eq!(ids(&w.repo.delete(&asked).unwrap()), ids(&told));
    assert_eq!(w.content(full.id(), 0).unwrap(), [1, 0, 0, 0]);
    assert_eq!(w.head(0).unwrap().backup_id, *full.id());
    // Their images are not lost either: no manifest named them, so a person decides.
    let report = w.recover(&[]);
    assert!(report.damaged.is_empty());
    assert_eq!(report.quarantined.len(), 6);
}
