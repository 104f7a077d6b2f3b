//! Adopting: exact or refused, and whole or back in quarantine whatever crashes.

use super::super::recovery::tests::after_crash;
use super::super::testing::{World, content, disk, options};
use super::super::*;
use super::*;
use crate::storage::Directory;
use crate::storage::mem::{MemDirectory, Op};

use BackupKind::{Differential, Full, Incremental};
use proptest::prelude::*;

/// A point of two disks.
fn seal(w: &mut World, kind: BackupKind, at: u64, fill: u8) -> BackupId {
    let job = w.job();
    let disks = [0, 1].map(|n| {
        let growing = w.begin(&job, n, kind).unwrap();
        w.prepare(growing, at, fill + 10 * u8::try_from(n).unwrap())
    });
    w.repo.commit(disks.into(), w.now).unwrap();
    job
}

/// A full and an increment of two disks of which the increment has lost its manifest: recovery has
/// brought its files to quarantine.
fn lost() -> (MemDirectory, World, BackupId, BackupId) {
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    let full = seal(&mut w, Full, 0, 1);
    let last = seal(&mut w, Incremental, 1, 2);
    dir.remove_file(&manifest_path(w.vm, &last)).unwrap();
    let report = w.recover(&[]);
    assert_eq!(report.quarantined.len(), 6);
    (dir, w, full, last)
}

fn adopt(w: &World, id: &BackupId) -> Result<Arc<RestorePoint>> {
    w.repo.adopt(w.vm, id, w.now, &Progress::new())
}

/// Refused for this reason, with everything as it was.
#[track_caller]
fn refused(w: &World, id: &BackupId, why: &str) {
    let before = w.repo.quarantine().unwrap();
    let e = adopt(w, id).unwrap_err();
    assert_eq!(e.kind, ErrorKind::WrongState, "{e}");
    assert!(e.to_string().contains(why), "{e}");
    assert_eq!(w.repo.quarantine().unwrap(), before);
}

#[test]
fn what_is_exact_becomes_the_newest_point_again() {
    let (_, mut w, _, last) = lost();
    let finds = w.repo.quarantine().unwrap();
    assert_eq!(finds.len(), 2);
    for find in &finds {
        assert_eq!(find.why_not, None);
        assert_eq!(find.record.as_ref().unwrap().backup_id, last);
        assert!(find.bytes > 0 && find.path.starts_with(QUARANTINE_DIR));
    }
    let point = adopt(&w, &last).unwrap();
    assert_eq!((point.id(), point.disks.len()), (&last, 2));
    assert_eq!(w.content(&last, 0).unwrap(), [1, 2, 0, 0]);
    assert_eq!(w.content(&last, 1).unwrap(), [11, 12, 0, 0]);
    assert_eq!(w.head(1).unwrap().backup_id, last);
    assert_eq!(w.repo.quarantine().unwrap(), []);
    assert_eq!(w.recover(&[]), RecoveryReport::default());
    let next = w.backup(Incremental, 2, 7);
    assert!(next.parents().contains(&last));
    assert_eq!(adopt(&w, &last).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn what_is_not_exact_or_does_not_fit_stays_in_quarantine() {
    // The chain has moved on.
    let (_, mut w, _, last) = lost();
    let growing = {
        let job = w.job();
        w.begin(&job, 0, Incremental).unwrap()
    };
    assert_eq!(adopt(&w, &last).unwrap_err().kind, ErrorKind::Busy);
    growing.abort().unwrap();
    w.backup(Incremental, 2, 9);
    refused(&w, &last, "moved on");
    assert!(w.repo.quarantine().unwrap()[0].why_not.is_some());

    // A byte of the image, and a byte of its checksums.
    for part in [Part::Image, Part::Checksums] {
        let (dir, w, _, last) = lost();
        let image = w.repo.quarantine().unwrap()[1].path.clone();
        let path = image.replace("qcow2", part.ending());
        let file = dir.open(&path, Create::OpenWrite).unwrap();
        let at = file.len().unwrap() - 100;
        file.write_at_blocking(at, b"flipped").unwrap();
        let e = adopt(&w, &last).unwrap_err();
        assert_eq!(e.kind, ErrorKind::WrongState, "{e}");
        assert_eq!(w.repo.quarantine().unwrap().len(), 2);
        assert!(w.repo.points(w.vm).unwrap().get(&last).is_err());
    }

    // One of two disks, or one of three files.
    for ending in ["json", "qcow2", "crc"] {
        let (dir, w, _, last) = lost();
        let image = w.repo.quarantine().unwrap()[1].path.clone();
        dir.remove_file(&image.replace("qcow2", ending)).unwrap();
        let why = if ending == "json" {
            "1 of"
        } else {
            "is not there"
        };
        refused(&w, &last, why);
    }

    // Its parent is not there.
    let (_, w, full, last) = lost();
    let request = DeletePoint {
        vm: w.vm,
        backup_id: full,
        with_dependents: false,
        dry_run: false,
    };
    w.repo.delete(&request).unwrap();
    assert_eq!(adopt(&w, &last).unwrap_err().kind, ErrorKind::WrongState);

    // A differential is of the full that it names, and an older one is no newest point.
    let dir = MemDirectory::new();
    let mut w = World::new(dir.clone());
    seal(&mut w, Full, 0, 1);
    let old = seal(&mut w, Differential, 1, 2);
    seal(&mut w, Differential, 2, 3);
    dir.remove_file(&manifest_path(w.vm, &old)).unwrap();
    w.repo
        .recover(&[].into(), std::time::Duration::ZERO)
        .unwrap();
    refused(&w, &old, "moved on");
    let nobody = w.job();
    assert_eq!(adopt(&w, &nobody).unwrap_err().kind, ErrorKind::NotFound);
}

/// What an adoption does to storage, from where on, and what is to come of it.
fn adoption() -> (Vec<Op>, usize, VmId, BackupId, BackupId) {
    let (dir, w, full, last) = lost();
    let settled = dir.log().len();
    adopt(&w, &last).unwrap();
    (dir.log(), settled, w.vm, full, last)
}

/// Says whether the point was there after the crash.
fn check(dir: MemDirectory, vm: VmId, full: &BackupId, last: &BackupId, known: bool) -> bool {
    let dir: Arc<dyn Directory> = Arc::new(dir);
    let repo = Repository::open_or_create(dir, options()).unwrap();
    let jobs = known.then(|| last.clone()).into_iter().collect();
    let report = repo.recover(&jobs, std::time::Duration::ZERO).unwrap();
    assert_eq!((&report.damaged, &report.missing), (&vec![], &vec![]));
    assert_eq!(content(&repo, vm, full, 1).unwrap(), [11, 0, 0, 0]);
    let there = repo.points(vm).unwrap().get(last).is_ok();
    if !there {
        let now = options().now;
        repo.adopt(vm, last, now, &Progress::new()).unwrap();
    }
    assert_eq!(content(&repo, vm, last, 0).unwrap(), [1, 2, 0, 0]);
    assert_eq!(content(&repo, vm, last, 1).unwrap(), [11, 12, 0, 0]);
    let points = repo.points(vm).unwrap();
    assert!(matches!(points.head(disk(0)), guard::Head::At(head) if head.backup_id == *last));
    there
}

#[test]
fn a_crash_in_mid_adoption_leaves_the_point_or_its_files_in_quarantine() {
    let (ops, settled, vm, full, last) = adoption();
    let seen: Vec<bool> = (settled..=ops.len())
        .map(|cut| {
            check(
                MemDirectory::replay(&ops[..cut]),
                vm,
                &full,
                &last,
                cut % 2 == 0,
            )
        })
        .collect();
    assert!(seen.is_sorted() && !seen[0] && seen[seen.len() - 1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_crash_in_mid_adoption_may_lose_any_of_what_was_not_synced(
        cut in any::<prop::sample::Index>(), picks in prop::collection::vec(any::<bool>(), 64),
    ) {
        let (ops, settled, vm, full, last) = adoption();
        let cut = settled + cut.index(ops.len() - settled + 1);
        let mut picks = picks.into_iter().cycle();
        check(after_crash(&ops[..cut], || picks.next().unwrap()), vm, &full, &last, true);
    }
}
