//! Restore points appear whole or not at all: by failing every operation, and by crashing
//! between any two.

use super::super::testing::{World, disk};
use super::super::*;
use crate::ErrorKind;
use crate::storage::mem::{Fault, MemDirectory, OpKind};

use BackupKind::{Differential, Full, Incremental};

fn world() -> (MemDirectory, World) {
    let dir = MemDirectory::new();
    (dir.clone(), World::new(dir))
}

#[test]
fn a_chain_reads_back_point_by_point() {
    let (_, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let first = w.backup(Incremental, 1, 2);
    let second = w.backup(Incremental, 0, 3);
    let diff = w.backup(Differential, 2, 4);
    let last = w.backup(Incremental, 3, 5);
    for (point, expected) in [
        (&full, [1, 0, 0, 0]),
        (&first, [1, 2, 0, 0]),
        (&second, [3, 2, 0, 0]),
        (&diff, [1, 0, 4, 0]),
        (&last, [1, 0, 4, 5]),
    ] {
        assert_eq!(
            w.content(point.id(), 0).unwrap(),
            expected,
            "{}",
            point.id()
        );
    }
    assert_eq!(last.disks[0].sequence.get(), 5);
    assert_eq!(last.disks[0].token, ChangeToken::of_backup(last.id()));
    assert_eq!(
        w.files().len(),
        5 * 4,
        "image, checksums, sidecar, manifest: {:?}",
        w.files()
    );
}

#[test]
fn a_second_point_within_one_second_and_a_clock_set_back() {
    let (_, mut w) = world();
    let full = w.backup(Full, 0, 1);
    w.now -= jiff::SignedDuration::from_secs(1);
    let job = BackupId::new("web", w.now, |id| id == full.id()).unwrap();
    let growing = w.begin(&job, 0, Full).unwrap();
    let prepared = w.prepare(growing, 0, 2);
    let again = w.repo.commit(vec![prepared], w.now).unwrap();
    w.now -= jiff::SignedDuration::from_hours(1);
    let last = w.backup(Incremental, 1, 3);
    assert_ne!(again.disks[0].image.file, full.disks[0].image.file);
    assert_eq!(w.head(0).unwrap().backup_id, *last.id());
    assert_eq!(w.content(last.id(), 0).unwrap(), [2, 3, 0, 0]);
}

#[test]
fn a8_all_disks_of_a_vm_are_one_point_or_none() {
    let (_, mut w) = world();
    let job = w.job();
    let begin = |w: &World, n| w.begin(&job, n, Full).unwrap();
    let (a, b) = (begin(&w, 0), begin(&w, 1));
    let a = w.prepare(a, 0, 1);
    // Disk 1 is not complete: no point of disk 0 alone.
    let error = w.repo.commit(vec![a], w.now).unwrap_err();
    assert_eq!(error.kind, ErrorKind::WrongState, "{error}");
    drop(b);
    assert!(w.files().is_empty(), "{:?}", w.files());

    let job = w.job();
    let disks = [1, 0].map(|n| w.prepare(w.begin(&job, n, Full).unwrap(), 0, 7));
    let point = w.repo.commit(disks.into(), w.now).unwrap();
    assert_eq!(point.disks.len(), 2);
    assert_eq!(w.content(point.id(), 1).unwrap(), [7, 0, 0, 0]);
}

#[test]
fn a9_one_disk_has_one_writer_and_gives_only_its_own_up() {
    let (_, mut w) = world();
    let (one, two) = (w.job(), w.job());
    let growing = w.begin(&one, 0, Full).unwrap();
    let error = w.begin(&two, 0, Full).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Locked);
    assert!(error.to_string().contains(one.as_str()), "{error}");
    // Another disk is free, and giving it up leaves the first one's file.
    let other = w.begin(&two, 1, Full).unwrap();
    other.abort().unwrap();
    assert_eq!(w.files().len(), 1);
    drop(growing);
    assert!(w.files().is_empty());
    w.begin(&two, 0, Full).unwrap();
}

#[test]
fn a11_a_job_that_began_or_failed_is_not_the_head() {
    let (_, mut w) = world();
    let full = w.backup(Full, 0, 1);
    let job = w.job();
    let growing = w.begin(&job, 0, Incremental).unwrap();
    assert_eq!(w.head(0).unwrap().backup_id, *full.id());
    growing.abort().unwrap();
    let next = w.backup(Incremental, 1, 2);
    let parent = next.disks[0].parent.as_ref().unwrap();
    assert_eq!(parent.backup_id, *full.id());
}

#[test]
fn an_image_that_is_not_what_was_begun_is_refused() {
    let (_, mut w) = world();
    w.backup(Full, 0, 1);
    let before = w.files();
    let cases: [fn(&mut PreparedDisk); 3] = [
        |d| d.file_len += 1,
        |d| d.cluster = sendense_formats::ClusterSize::from_bits(17).unwrap(),
        |d| d.growing.file().write_at_blocking(0, b"nope").unwrap(),
    ];
    for case in cases {
        let job = w.job();
        let growing = w.begin(&job, 0, Incremental).unwrap();
        let mut prepared = w.prepare(growing, 1, 2);
        case(&mut prepared);
        assert!(w.repo.commit(vec![prepared], w.now).is_err());
        assert_eq!(w.files(), before);
    }
}

/// Every operation of a commit fails once: the point is there and reads right, or it is not there
/// and nothing is left of it but what recovery removes; the old head stands.
#[test]
fn whatever_fails_the_old_head_stands() {
    let kinds = [
        OpKind::Open,
        OpKind::Create,
        OpKind::Write,
        OpKind::Sync,
        OpKind::Rename,
        OpKind::SyncDir,
        OpKind::Read,
    ];
    for kind in kinds {
        for after in 0.. {
            let (dir, mut w) = world();
            let full = w.backup(Full, 0, 1);
            let before = w.files();
            let job = w.job();
            let growing = w.begin(&job, 0, Incremental).unwrap();
            let prepared = w.prepare(growing, 1, 2);
            dir.fail(Fault {
                after,
                ..Fault::next(kind)
            });
            let result = w.repo.commit(vec![prepared], w.now);
            dir.heal();
            let what = format!("{kind:?} {after}");
            match result {
                Ok(point) => {
                    assert_eq!(w.content(point.id(), 0).unwrap(), [1, 2, 0, 0], "{what}");
                    break;
                }
                Err(e) if e.kind == ErrorKind::InDoubt => {
                    // Nothing of this VM changes until recovery has looked.
                    let other = w.job();
                    let refused = w.begin(&other, 0, Full).unwrap_err();
                    assert_eq!(refused.kind, ErrorKind::InDoubt, "{what}");
                    let report = w.recover(&[&job]);
                    assert!(!report.needs_attention(), "{what}: {report:?}");
                    assert_eq!(w.content(&job, 0).unwrap(), [1, 2, 0, 0], "{what}");
                }
                Err(_) => {
                    assert_eq!(w.files(), before, "{what}");
                    assert_eq!(w.head(0).unwrap().backup_id, *full.id(), "{what}");
                }
            }
            w.backup(Incremental, 2, 9);
        }
    }
}

#[test]
fn below_the_reserve_nothing_begins() {
    let dir = MemDirectory::new();
    let options = RepositoryOptions {
        reserve: Some(10 << 20),
        warn: Some(10 << 20),
        ..testing::options()
    };
    let repo = Repository::open_or_create(std::sync::Arc::new(dir.clone()), options).unwrap();
    let mut w = World {
        repo,
        vm: VmId::generate(),
        now: testing::options().now,
    };
    assert_eq!(w.repo.space().unwrap().verdict, SpaceVerdict::Enough);
    w.backup(Full, 0, 1);
    dir.set_space_left(15 << 20);
    let job = w.job();
    let growing = w.begin(&job, 0, Full).unwrap();
    assert_eq!(growing.space().verdict, SpaceVerdict::Low);
    drop(growing);
    dir.set_space_left(10 << 20);
    let error = w.begin(&job, 0, Full).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace);
    assert_eq!(w.repo.points(w.vm).unwrap().of_disk(disk(0)).len(), 1);
}
