//! After a crash at any moment the old points are whole, and the new one is whole or not there.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{World, content, disk, options};
use super::super::*;
use super::*;
use crate::storage::Directory;
use crate::storage::mem::{Inode, MemDirectory, Op};

use BackupKind::{Full, Incremental};

/// A state that storage may be in after a crash behind `ops`: what was synced is there, of the
/// rest whatever `survives` picks. Names are made durable by syncing their directory, content by
/// syncing the file.
pub(in crate::repository) fn after_crash(
    ops: &[Op],
    mut survives: impl FnMut() -> bool,
) -> MemDirectory {
    let parent = |path: &str| path.rsplit_once('/').map_or("", |(p, _)| p).to_owned();
    let durable = |at: usize, op: &Op| {
        let later = ops.get(at..).unwrap_or_default();
        let file = |inode: &Inode| {
            later
                .iter()
                .any(|o| matches!(o, Op::Sync { inode: i } if i == inode))
        };
        let dir = |path: &str| {
            let parent = parent(path);
            later
                .iter()
                .any(|o| matches!(o, Op::SyncDir { path } if *path == parent))
        };
        match op {
            Op::Write { inode, .. } | Op::SetLen { inode, .. } => file(inode),
            Op::Allocate { inode, .. } | Op::Punch { inode, .. } => file(inode),
            Op::Rename { from, to } | Op::Replace { from, to } => dir(from) && dir(to),
            Op::Create { path, .. } | Op::RemoveFile { path } => dir(path),
            Op::CreateDir { path } | Op::RemoveDir { path } => dir(path),
            Op::Sync { .. } | Op::SyncDir { .. } => true,
        }
    };
    let kept = ops
        .iter()
        .enumerate()
        .filter(|(at, op)| durable(*at, op) || survives());
    MemDirectory::replay(kept.map(|(_, op)| op))
}

/// A history: a full of two disks, an increment on it, then one more that the crash is about.
struct History {
    ops: Vec<Op>,
    /// Operations before the last backup.
    settled: usize,
    vm: VmId,
    old: Vec<BackupId>,
    last: BackupId,
}

fn history() -> History {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    let mut ids = Vec::new();
    let mut settled = 0;
    for (kind, at, fill) in [(Full, 0, 1), (Incremental, 1, 2), (Incremental, 0, 3)] {
        settled = dir.log().len();
        let job = w.job();
        let disks = [0, 1].map(|n| {
            let growing = w.begin(&job, n, kind).unwrap();
            w.prepare(growing, at, fill + 10 * u8::try_from(n).unwrap())
        });
        w.repo.commit(disks.into(), w.now).unwrap();
        ids.push(job);
    }
    let last = ids.pop().unwrap();
    History {
        ops: dir.log(),
        settled,
        vm: w.vm,
        old: ids,
        last,
    }
}

/// Starts over on this storage, and checks the promise. Says whether the last point is there.
fn check(h: &History, dir: MemDirectory) -> bool {
    let dir: Arc<dyn Directory> = Arc::new(dir);
    let repo = Repository::open_or_create(dir, options()).unwrap();
    let known = h.old.iter().chain([&h.last]).cloned().collect();
    let report = repo.recover(&known, Duration::ZERO).unwrap();
    assert_eq!(
        (&report.damaged, &report.missing, &report.failed),
        (&vec![], &vec![], &vec![])
    );
    assert_eq!(report.left, []);
    let points = repo.points(h.vm).unwrap();
    for (id, first, second) in [
        (&h.old[0], [1, 0, 0, 0], [11, 0, 0, 0]),
        (&h.old[1], [1, 2, 0, 0], [11, 12, 0, 0]),
    ] {
        assert_eq!(content(&repo, h.vm, id, 0).unwrap(), first);
        assert_eq!(content(&repo, h.vm, id, 1).unwrap(), second);
    }
    let there = points.get(&h.last).is_ok();
    if there {
        assert_eq!(content(&repo, h.vm, &h.last, 0).unwrap(), [3, 2, 0, 0]);
        assert_eq!(content(&repo, h.vm, &h.last, 1).unwrap(), [13, 12, 0, 0]);
    }
    // Nothing unfinished is left, and the next backup goes through.
    let mut w = World {
        repo,
        vm: h.vm,
        now: "2025-10-04T12:00:10Z".parse().unwrap(),
    };
    let rest: Vec<_> = w
        .files()
        .into_iter()
        .filter(|f| f.ends_with(".partial"))
        .collect();
    assert_eq!(rest, [""; 0]);
    w.backup(Incremental, 3, 9);
    there
}

#[test]
fn a7_a_crash_between_any_two_operations_leaves_whole_points() {
    let h = history();
    let mut seen = Vec::new();
    for cut in h.settled..=h.ops.len() {
        seen.push(check(&h, MemDirectory::replay(&h.ops[..cut])));
    }
    // Absent, absent, ..., there: it appears once, by one operation, and does not go again.
    assert!(seen.is_sorted() && !seen[0] && seen[seen.len() - 1]);
    let rename = seen.iter().filter(|there| **there).count();
    assert_eq!(
        rename, 2,
        "there after the rename of step 9 and after its sync"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_crash_that_loses_any_of_what_was_not_synced_leaves_whole_points(
        cut in any::<prop::sample::Index>(), picks in prop::collection::vec(any::<bool>(), 64),
    ) {
        let h = history();
        let cut = h.settled + cut.index(h.ops.len() - h.settled + 1);
        let mut picks = picks.into_iter().cycle();
        check(&h, after_crash(&h.ops[..cut], || picks.next().unwrap()));
    }
}

fn fresh() -> (MemDirectory, World) {
    let dir = MemDirectory::new();
    (dir.clone(), World::new(dir))
}

/// The world after kill -9: everything as it is, nothing given back.
fn killed(w: World, dir: &MemDirectory) -> World {
    let (vm, now) = (w.vm, w.now);
    let copy = MemDirectory::replay(&dir.log());
    drop(w);
    World {
        now,
        ..World::over(Arc::new(copy), vm)
    }
}

#[test]
fn only_unfinished_files_of_this_repository_and_a_known_job_are_removed() {
    let (dir, mut w) = fresh();
    w.backup(Full, 0, 1);
    let (known, unknown) = (w.job(), w.job());
    let a = w.begin(&known, 1, Full).unwrap();
    let b = w.begin(&unknown, 2, Full).unwrap();
    let foreign = format!("{}/disk-1/notes.txt", w.vm);
    dir.write_small(&foreign, b"mine").unwrap();
    let other = PartialName {
        repository: RepositoryId::generate(),
        job: known.clone(),
        becomes: None,
    };
    let other = format!("{}/points/{other}", w.vm);
    dir.write_small(&other, b"x").unwrap();
    let (path_a, path_b) = (a.partial_path(Part::Image), b.partial_path(Part::Image));

    // A recovery in the process that writes them leaves them alone.
    let report = w.recover(&[&known, &unknown]);
    assert_eq!(report.removed, []);

    let w2 = killed(w, &dir);
    let report = w2.recover(&[&known]);
    let removed: Vec<_> = report.removed.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(removed, [path_a.as_str()]);
    let left: Vec<_> = report.left.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(left, [other.as_str(), path_b.as_str()]);
    assert!(w2.files().contains(&foreign));
    assert!(report.needs_attention());
}

#[test]
fn a_file_that_is_still_locked_is_waited_for_and_then_left() {
    let (dir, mut w) = fresh();
    let job = w.job();
    let growing = w.begin(&job, 0, Full).unwrap();
    let path = growing.partial_path(Part::Image);
    let w2 = killed(w, &dir);
    let file = w2.repo.directory().open(&path, Create::OpenWrite).unwrap();
    file.lock(LockKind::Exclusive).unwrap();
    let report = w2.recover(&[&job]);
    assert_eq!(report.left[0].note, "another process still has it open");
    let other = Arc::clone(&file);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(120));
        other.unlock().unwrap();
    });
    let known = BTreeSet::from([job]);
    let report = w2.repo.recover(&known, LOCK_WAIT).unwrap();
    thread.join().unwrap();
    assert_eq!(report.removed[0].path, path);
}

#[test]
fn a_finished_image_without_a_point_goes_to_quarantine_and_is_never_unlinked() {
    let (dir, mut w) = fresh();
    let full = w.backup(Full, 0, 1);
    let point = w.backup(Incremental, 1, 2);
    dir.remove_file(&manifest_path(w.vm, point.id())).unwrap();
    let w2 = killed(w, &dir);
    let report = w2.recover(&[point.id()]);
    assert_eq!(report.quarantined.len(), 3);
    for found in &report.quarantined {
        assert!(found.path.starts_with(QUARANTINE_DIR), "{found:?}");
        w2.repo
            .directory()
            .open(&found.path, Create::OpenRead)
            .unwrap();
    }
    assert_eq!(w2.head(0).unwrap().backup_id, *full.id());
    assert_eq!(w2.recover(&[]), RecoveryReport::default());
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_its_images_in_place() {
    let (dir, mut w) = fresh();
    let full = w.backup(Full, 0, 1);
    let point = w.backup(Incremental, 1, 2);
    let path = manifest_path(w.vm, point.id());
    let file = dir.open(&path, Create::OpenWrite).unwrap();
    file.write_at_blocking(20, b"#").unwrap();
    let mut w2 = killed(w, &dir);
    let before = w2.files();
    let report = w2.recover(&[point.id()]);
    assert_eq!(report.quarantined, []);
    assert_eq!(report.damaged[0].1.backup_id, *point.id());
    assert_eq!(w2.files(), before);
    // Nothing builds on what may not be the newest; a full goes on.
    let job = w2.job();
    assert_eq!(
        w2.begin(&job, 0, Incremental).unwrap_err().kind,
        ErrorKind::Damaged
    );
    drop(w2.begin(&job, 0, Full).unwrap());
    // The way out: delete the damaged point; its files are then nobody's.
    let request = DeletePoint {
        vm: w2.vm,
        backup_id: point.id().clone(),
        with_dependents: false,
        dry_run: false,
    };
    w2.repo.delete(&request).unwrap();
    assert_eq!(w2.head(0).unwrap().backup_id, *full.id());
    assert_eq!(w2.recover(&[]).quarantined.len(), 3);
}

#[test]
fn files_that_a_sealed_point_misses_are_reported() {
    let (dir, mut w) = fresh();
    let point = w.backup(Full, 0, 1);
    let image = format!("{}/disk-0/{}", w.vm, point.disks[0].image.file);
    dir.remove_file(&image).unwrap();
    let w2 = killed(w, &dir);
    assert_eq!(w2.recover(&[]).missing, [image]);
    let error = w2.repo.layers(w2.vm, point.id(), disk(0)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
}

#[test]
fn one_vm_in_trouble_does_not_hide_the_others() {
    let (dir, mut w) = fresh();
    let job = w.job();
    let growing = w.begin(&job, 0, Full).unwrap();
    let path = growing.partial_path(Part::Image);
    let broken = VmId::parse("00000000-0000-0000-0000-000000000001").unwrap();
    dir.create_dirs(&vm_dir(broken)).unwrap();
    dir.write_small(&points_dir(broken), b"a file where a directory belongs")
        .unwrap();
    let w2 = killed(w, &dir);
    let report = w2.recover(&[&job]);
    assert_eq!(report.failed[0].0, broken);
    assert_eq!(report.removed[0].path, path);
}
