//! What a flush promises, what the seal does in which order, and space in front of the data.

use futures_util::future::{join, join3};
use futures_util::poll;
use sendense_nbd::NbdError;

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};
use crate::ErrorKind;
use crate::storage::mem::{Fault, Op, OpKind};

fn syncs(rig: &Rig) -> usize {
    let log = rig.directory.log();
    log.iter()
        .filter(|op| matches!(op, Op::Sync { .. }))
        .count()
}

/// Whether everything that was written is synced.
fn durable(rig: &Rig) -> bool {
    let log = rig.directory.log();
    let last = log
        .iter()
        .rev()
        .find(|op| matches!(op, Op::Sync { .. } | Op::Write { .. }));
    matches!(last, Some(Op::Sync { .. }))
}

#[test]
fn a_flush_makes_durable_what_is_held() {
    block_on(async {
        let rig = Rig::full(8 * CLUSTER);
        let disk = rig.attach();
        disk.write(100, vec![1; 5]).await.unwrap();
        disk.write(3 * CLUSTER - 10, vec![2; 20]).await.unwrap();
        assert_eq!(rig.ingest.progress().held, 3 * CLUSTER);
        rig.attach().flush().await.unwrap();
        assert_eq!(rig.ingest.progress().held, 0);
        assert!(durable(&rig));
        assert_eq!(disk.read(3 * CLUSTER - 10, 20).await.unwrap(), [2; 20]);
    });
}

#[test]
fn flushes_that_wait_share_a_round_that_begins_after_them() {
    block_on(async {
        let rig = Rig::full(8 * CLUSTER);
        let disk = rig.attach();
        rig.directory.hold(OpKind::Sync);
        let mut first = Box::pin(disk.flush());
        assert!(poll!(first.as_mut()).is_pending());
        // Replied while the first round syncs already: that round does not count for it.
        disk.write(0, pattern(1, 65536)).await.unwrap();
        let mut others = Box::pin(join3(disk.flush(), disk.flush(), disk.flush()));
        assert!(poll!(others.as_mut()).is_pending());
        rig.directory.release();
        let (a, b) = join(first, others).await;
        assert_eq!((a, b), (Ok(()), (Ok(()), Ok(()), Ok(()))));
        assert_eq!(syncs(&rig), 2);
        assert!(durable(&rig));
    });
}

#[test]
fn a_flush_waits_for_a_held_part_that_is_being_written() {
    block_on(async {
        let rig = Rig::full(8 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 100)).await.unwrap();
        rig.directory.hold(OpKind::Write);
        // A later write takes the cluster over, and is not replied yet.
        let mut over = Box::pin(disk.write(0, pattern(2, 65536)));
        assert!(poll!(over.as_mut()).is_pending());
        let mut flush = Box::pin(disk.flush());
        assert!(poll!(flush.as_mut()).is_pending());
        assert_eq!(syncs(&rig), 0);
        rig.directory.release();
        let done = join(over, flush).await;
        assert_eq!(done, (Ok(()), Ok(())));
        assert!(durable(&rig));
    });
}

#[test]
fn a_dropped_flush_leaves_the_others_their_answer() {
    block_on(async {
        let rig = Rig::full(CLUSTER);
        let disk = rig.attach();
        rig.directory.hold(OpKind::Sync);
        let mut first = Box::pin(disk.flush());
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(disk.flush());
        assert!(poll!(second.as_mut()).is_pending());
        drop(first);
        rig.directory.release();
        second.await.unwrap();
    });
}

#[test]
fn a_flush_during_the_seal_is_answered_by_it() {
    block_on(async {
        let rig = Rig::full(4 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 100)).await.unwrap();
        rig.ingest.freeze().await.unwrap();
        let mut flush = Box::pin(disk.flush());
        assert!(poll!(flush.as_mut()).is_pending());
        let (flushed, sealed) = join(flush, rig.seal()).await;
        assert_eq!(flushed, Ok(()));
        sealed.unwrap();
        let rig = Rig::full(4 * CLUSTER);
        rig.ingest.freeze().await.unwrap();
        let disk = rig.attach();
        let mut flush = Box::pin(disk.flush());
        assert!(poll!(flush.as_mut()).is_pending());
        rig.ingest.abort();
        assert_eq!(flush.await, Err(NbdError::Shutdown));
    });
}

#[test]
fn the_seal_keeps_its_order() {
    block_on(async {
        let rig = Rig::full(64 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 3 * 65536)).await.unwrap();
        disk.write(50 * CLUSTER, pattern(1, 10)).await.unwrap();
        rig.seal().await.unwrap();
        let steps: Vec<&str> = rig
            .directory
            .log()
            .iter()
            .filter_map(|op| match op {
                Op::Write { at: 0, .. } => Some("header"),
                Op::Write { .. } => Some("write"),
                Op::Sync { .. } => Some("sync"),
                Op::SetLen { .. } => Some("cut"),
                _ => None,
            })
            .collect();
        let expected = [
            "write", // data
            "write", // (1) the partial cluster
            "write", // (2) metadata
            "sync",  // (3)
            "header", "cut", "sync", // (4), (5)
        ];
        assert_eq!(steps, expected);
    });
}

#[test]
fn metadata_that_does_not_read_back_is_no_restore_point() {
    // The layout: header, one cluster of data, L2, refcount block, refcount table, L1.
    for cluster in 2..6 {
        block_on(async {
            let rig = Rig::with(4 * CLUSTER, None, |o| o.allocate_ahead = 0);
            rig.attach().write(0, pattern(1, 65536)).await.unwrap();
            rig.directory.hold(OpKind::Sync);
            let mut seal = Box::pin(rig.seal());
            assert!(poll!(seal.as_mut()).is_pending());
            rig.damage(cluster * CLUSTER + 60_000);
            rig.directory.release();
            let error = seal.await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
            assert!(rig.seal().await.is_err());
        });
    }
}

#[test]
fn space_ahead_is_a_help_and_never_a_need() {
    for case in 0..4 {
        block_on(async {
            let rig = Rig::full(8 * CLUSTER);
            let disk = rig.attach();
            match case {
                0 => rig.directory.set_unsupported(OpKind::Allocate),
                1 => rig.directory.fail(Fault {
                    errno: libc::ENOSPC,
                    ..Fault::next(OpKind::Allocate)
                }),
                2 => rig.directory.fail(Fault::next(OpKind::Allocate)),
                _ => {}
            }
            for i in 0..8 {
                let at = i * CLUSTER;
                disk.write(at, pattern(1, 65536)).await.unwrap();
            }
            rig.seal().await.unwrap();
            for op in rig.directory.log() {
                if let Op::Allocate { at, len, .. } = op {
                    assert!(at + len <= 9 * CLUSTER, "more than the disk can take");
                }
            }
            let expected: Vec<u8> = pattern(1, 65536).repeat(8);
            assert!(rig.read_sealed() == expected);
        });
    }
}

#[test]
fn a_parent_that_cannot_be_read_ends_the_backup() {
    block_on(async {
        let base = Rig::full(4 * CLUSTER);
        base.attach().write(0, pattern(1, 65536)).await.unwrap();
        base.seal().await.unwrap();
        let rig = Rig::over(&base, 4 * CLUSTER);
        let disk = rig.attach();
        disk.write(10, vec![1; 10]).await.unwrap();
        disk.read(0, 5).await.unwrap();
        base.directory.fail(Fault {
            forever: true,
            ..Fault::next(OpKind::Read)
        });
        // A read that fails harms nothing; a fill that fails would.
        assert_eq!(disk.read(0, 5).await.unwrap_err(), NbdError::Io);
        assert!(rig.ingest.failure().is_none());
        assert_eq!(disk.flush().await, Err(NbdError::Io));
        assert!(rig.ingest.failure().is_some());
        assert!(rig.seal().await.is_err());
    });
}
