//! One disk as a byte array against everything that can happen to it.

mod durable;
mod rig;

use proptest::prelude::*;
use sendense_formats::{ChangeList, GuestRange};
use sendense_nbd::NbdError;

use super::*;
use crate::ErrorKind;
use crate::storage::mem::{Fault, OpKind};
use rig::{Disk, Rig, block_on, pattern};

const CLUSTER: u64 = 65536;

#[test]
fn a_full_reads_back_exactly_and_zeros_take_no_room() {
    block_on(async {
        let rig = Rig::full(10 * CLUSTER + 512);
        let disk = rig.attach();
        disk.write(0, pattern(1, 3 * 65536)).await.unwrap();
        disk.write(3 * CLUSTER, vec![0; 4 * 65536]).await.unwrap();
        disk.zero(7 * CLUSTER, 3 * CLUSTER + 512).await.unwrap();
        let prepared = rig.seal().await.unwrap();
        assert_eq!(prepared.counts.data_clusters, 3);
        assert_eq!(prepared.stored_bytes, 3 * CLUSTER);
        assert_eq!(prepared.covered_bytes, 10 * CLUSTER + 512);
        let mut expected = vec![0; 10 * 65536 + 512];
        expected[..3 * 65536].copy_from_slice(&pattern(1, 3 * 65536));
        assert!(rig.read_sealed() == expected);
        // Asked again, the answer is the same; reads go on, writes do not.
        assert_eq!(rig.seal().await.unwrap().file_len, prepared.file_len);
        assert!(disk.read(5, 70_000).await.unwrap() == expected[5..70_005]);
        assert_eq!(disk.write(0, vec![1]).await, Err(NbdError::Shutdown));
        assert_eq!(disk.flush().await, Ok(()));
    });
}

#[test]
fn zeros_in_an_overlay_hide_the_parent() {
    block_on(async {
        let base = Rig::full(4 * CLUSTER);
        base.attach().write(0, pattern(2, 4 * 65536)).await.unwrap();
        base.seal().await.unwrap();
        let rig = Rig::over(&base, 4 * CLUSTER);
        let disk = rig.attach();
        disk.trim(0, CLUSTER).await.unwrap();
        disk.write(CLUSTER, vec![0; 65536]).await.unwrap();
        disk.zero(2 * CLUSTER + 100, 200).await.unwrap();
        let prepared = rig.seal().await.unwrap();
        assert_eq!(prepared.counts.zero_clusters, 2);
        assert_eq!(prepared.counts.data_clusters, 1);
        let mut expected = pattern(2, 4 * 65536);
        expected[..2 * 65536].fill(0);
        expected[2 * 65536 + 100..][..200].fill(0);
        assert!(rig.read_sealed() == expected);
    });
}

#[test]
fn a_full_that_lacks_bytes_is_refused_and_takes_them_then() {
    block_on(async {
        let rig = Rig::with(10 * CLUSTER, None, |o| o.coverage = CoverageRule::Whole);
        let disk = rig.attach();
        disk.write(0, pattern(1, 100)).await.unwrap();
        disk.write(200, pattern(1, 100)).await.unwrap();
        let missing = [
            GuestRange::between(100, 200),
            GuestRange::between(300, 10 * CLUSTER),
        ];
        match rig.seal().await.unwrap_err().kind {
            ErrorKind::IncompleteCoverage { missing: m, more } => {
                assert_eq!((m.as_slice(), more), (missing.as_slice(), 0));
            }
            other => panic!("{other:?}"),
        }
        for m in missing {
            disk.zero(m.start().get(), m.len()).await.unwrap();
        }
        rig.seal().await.unwrap();
        let mut expected = vec![0; 10 * 65536];
        expected[..100].copy_from_slice(&pattern(1, 100));
        expected[200..300].copy_from_slice(&pattern(1, 100));
        assert!(rig.read_sealed() == expected);
    });
}

#[test]
fn what_was_refused_while_frozen_must_come_again() {
    block_on(async {
        let rig = Rig::full(2 * CLUSTER);
        let list = ChangeList::from_unsorted([GuestRange::between(0, CLUSTER)]);
        rig.ingest.set_changes(list.clone()).unwrap();
        let disk = rig.attach();
        rig.ingest.freeze().await.unwrap();
        assert_eq!(
            disk.write(CLUSTER, vec![1; 9]).await,
            Err(NbdError::Shutdown)
        );
        assert!(rig.seal().await.is_err());
        disk.write(0, vec![1; 65536]).await.unwrap();
        assert!(rig.ingest.set_changes(list).is_err());
        let error = rig.seal().await.unwrap_err();
        let expected = vec![GuestRange::between(CLUSTER, CLUSTER + 9)];
        assert!(
            matches!(&error.kind, ErrorKind::IncompleteCoverage { missing, .. } if *missing == expected)
        );
        disk.write(CLUSTER, vec![1; 9]).await.unwrap();
        rig.seal().await.unwrap();
    });
}

/// The ranges for which a seal is refused.
async fn asked_for_again(rig: &Rig) -> Vec<GuestRange> {
    match rig.seal().await.unwrap_err().kind {
        ErrorKind::IncompleteCoverage { missing, more: 0 } => missing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_session_refused_must_come_again() {
    block_on(async {
        let rig = Rig::full(2 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 2 * 65536)).await.unwrap();
        disk.refused(512, 100);
        // Behind the end there is nothing to lack.
        disk.refused(2 * CLUSTER - 10, u64::MAX);
        disk.refused(2 * CLUSTER, 512);
        disk.refused(u64::MAX, u64::MAX);
        let lacks = [
            GuestRange::between(512, 612),
            GuestRange::between(2 * CLUSTER - 10, 2 * CLUSTER),
        ];
        assert_eq!(asked_for_again(&rig).await, lacks);
        disk.write(512, vec![5; 100]).await.unwrap();
        disk.zero(2 * CLUSTER - 10, 10).await.unwrap();
        rig.seal().await.unwrap();
        // Nothing is lacking of what is sealed.
        disk.refused(0, 512);
        rig.seal().await.unwrap();
    });
}

#[test]
fn what_the_session_refused_while_frozen_must_come_again_once_open() {
    block_on(async {
        let rig = Rig::full(2 * CLUSTER);
        let list = ChangeList::from_unsorted([GuestRange::between(0, CLUSTER)]);
        rig.ingest.set_changes(list).unwrap();
        let disk = rig.attach();
        rig.ingest.freeze().await.unwrap();
        disk.refused(CLUSTER, 9);
        assert_eq!(
            asked_for_again(&rig).await,
            [GuestRange::between(0, CLUSTER)]
        );
        disk.write(0, vec![1; 65536]).await.unwrap();
        assert_eq!(
            asked_for_again(&rig).await,
            [GuestRange::between(CLUSTER, CLUSTER + 9)]
        );
        disk.write(CLUSTER, vec![1; 9]).await.unwrap();
        rig.seal().await.unwrap();
    });
}

#[test]
fn what_was_in_flight_before_a_failure_does_not_make_it_good() {
    block_on(async {
        let rig = Rig::full(4 * CLUSTER);
        let disk = rig.attach();
        rig.directory.hold(OpKind::Write);
        let mut older = Box::pin(disk.write(0, pattern(3, 65536)));
        assert!(futures_util::poll!(older.as_mut()).is_pending());
        disk.refused(512, 100);
        let mut newer = Box::pin(disk.write(600, pattern(4, 500)));
        assert!(futures_util::poll!(newer.as_mut()).is_pending());
        rig.directory.release();
        older.await.unwrap();
        newer.await.unwrap();
        assert_eq!(asked_for_again(&rig).await, [GuestRange::between(512, 600)]);
        disk.write(512, vec![9; 88]).await.unwrap();
        rig.seal().await.unwrap();
    });
}

#[test]
fn a_failed_write_poisons_with_its_own_error() {
    for (errno, expected) in [(libc::EIO, NbdError::Io), (libc::ENOSPC, NbdError::NoSpace)] {
        block_on(async {
            let rig = Rig::full(8 * CLUSTER);
            let disk = rig.attach();
            disk.write(0, pattern(1, 65536)).await.unwrap();
            rig.directory.fail(Fault {
                errno,
                ..Fault::next(OpKind::Write)
            });
            assert_eq!(disk.write(CLUSTER, pattern(1, 65536)).await, Err(expected));
            assert_eq!(disk.write(0, vec![1]).await, Err(expected));
            assert_eq!(disk.read(0, 1).await.unwrap_err(), expected);
            assert_eq!(disk.flush().await, Err(expected));
            assert_eq!(disk.zero(0, 5).await, Err(expected));
            assert_eq!(disk.status(0, 5), Err(expected));
            assert!(rig.ingest.failure().is_some());
            assert!(rig.seal().await.is_err());
            rig.ingest.abort();
            rig.ingest.drained().await;
            assert!(rig.bytes()[..65536].iter().all(|b| *b == 0));
        });
    }
}

#[test]
fn our_own_data_that_cannot_be_read_poisons() {
    block_on(async {
        let rig = Rig::full(8 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 65536)).await.unwrap();
        rig.directory.fail(Fault::next(OpKind::Read));
        assert_eq!(disk.read(0, 100).await, Err(NbdError::Io));
        // The fault is over, and the cluster is still known to be lost.
        assert!(rig.ingest.failure().is_some());
        assert_eq!(disk.read(0, 100).await, Err(NbdError::Io));
        let later = disk.write(CLUSTER, pattern(1, 65536)).await;
        assert_eq!(later, Err(NbdError::Io));
        assert!(rig.seal().await.is_err());
    });
}

#[test]
fn a_seal_that_is_cancelled_has_ended_before_the_file_may_go() {
    for kind in [OpKind::Write, OpKind::Sync] {
        block_on(async {
            let rig = Rig::full(2 * CLUSTER);
            let disk = rig.attach();
            disk.write(0, pattern(1, 65536)).await.unwrap();
            rig.directory.hold(kind);
            let mut seal = Box::pin(rig.seal());
            assert!(futures_util::poll!(seal.as_mut()).is_pending());
            rig.ingest.abort();
            let soon = std::time::Duration::from_millis(50);
            let mut drained = Box::pin(rig.ingest.drained());
            let early = tokio::time::timeout(soon, drained.as_mut()).await;
            assert!(early.is_err(), "{kind:?}: the seal still has the file");
            rig.directory.release();
            let (sealed, ()) = futures_util::future::join(seal, drained).await;
            assert_eq!(sealed.unwrap_err().kind, ErrorKind::WrongState);
            assert!(rig.bytes()[..4] != *b"QFI\xfb");
        });
    }
}

#[test]
fn nothing_makes_the_magic_before_the_metadata_is_synced() {
    for kind in [OpKind::Write, OpKind::Sync, OpKind::SetLen, OpKind::Read] {
        for after in 0..4 {
            block_on(async {
                let rig = Rig::full(8 * CLUSTER);
                let disk = rig.attach();
                disk.write(0, pattern(1, 65536)).await.unwrap();
                disk.write(3 * CLUSTER, pattern(1, 100)).await.unwrap();
                rig.directory.fail(Fault {
                    after,
                    ..Fault::next(kind)
                });
                let sealed = rig.seal().await;
                let bytes = rig.bytes();
                if sealed.is_ok() || bytes[..4] == *b"QFI\xfb" {
                    let mut expected = vec![0; 8 * 65536];
                    expected[..65536].copy_from_slice(&pattern(1, 65536));
                    expected[3 * 65536..][..100].copy_from_slice(&pattern(1, 100));
                    rig.directory.heal();
                    assert!(rig.read_sealed() == expected);
                }
                if sealed.is_err() {
                    assert!(rig.ingest.failure().is_some());
                    assert!(rig.seal().await.is_err());
                }
            });
        }
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    block_on(async {
        let rig = Rig::full(CLUSTER);
        let disk = rig.attach();
        disk.write(0, vec![7; 10]).await.unwrap();
        rig.directory.fail(Fault::next(OpKind::Sync));
        let (a, b) = futures_util::future::join(disk.flush(), disk.flush()).await;
        assert_eq!((a, b), (Err(NbdError::Io), Err(NbdError::Io)));
        assert_eq!(disk.flush().await, Err(NbdError::Io));
    });
}

#[test]
fn a_write_whose_connection_is_gone_still_ends() {
    block_on(async {
        let rig = Rig::full(4 * CLUSTER);
        let disk = rig.attach();
        rig.directory.hold(OpKind::Write);
        let mut write = Box::pin(disk.write(0, pattern(3, 65536)));
        assert!(futures_util::poll!(write.as_mut()).is_pending());
        drop(write);
        let other = rig.attach();
        let mut again = Box::pin(other.write(0, pattern(4, 65536)));
        assert!(futures_util::poll!(again.as_mut()).is_pending());
        rig.directory.release();
        again.await.unwrap();
        rig.seal().await.unwrap();
        assert!(rig.read_sealed()[..65536] == pattern(4, 65536));
    });
}

#[test]
fn one_byte_writes_all_over_stay_within_the_accumulator() {
    block_on(async {
        let rig = Rig::with(64 * CLUSTER, None, |o| o.accumulator_bytes = 4 * CLUSTER);
        let disk = rig.attach();
        let mut expected = vec![0; 64 * 65536];
        for i in 0..200_u64 {
            let at = i * 7919 * 13 % (64 * CLUSTER);
            disk.write(at, vec![9]).await.unwrap();
            expected[usize::try_from(at).unwrap()] = 9;
            assert!(rig.ingest.progress().held <= 4 * CLUSTER);
        }
        rig.seal().await.unwrap();
        assert!(rig.read_sealed() == expected);
    });
}

#[test]
fn status_tells_holes_data_and_what_is_held() {
    block_on(async {
        let base = Rig::full(2 * CLUSTER);
        base.seal().await.unwrap();
        let rig = Rig::over(&base, 6 * CLUSTER);
        let disk = rig.attach();
        disk.zero(0, CLUSTER).await.unwrap();
        disk.write(3 * CLUSTER, pattern(1, 65536)).await.unwrap();
        disk.write(5 * CLUSTER + 7, vec![1]).await.unwrap();
        let all = disk.status(0, 6 * CLUSTER).unwrap();
        let one = |len: u64, flags| (len * CLUSTER, flags);
        let expected = [
            one(1, 3),
            one(1, 0),
            one(1, 3),
            one(1, 0),
            one(1, 3),
            one(1, 0),
        ];
        assert_eq!(all, expected);
        assert_eq!(
            disk.status(100, CLUSTER).unwrap(),
            [(CLUSTER - 100, 3), (100, 0)]
        );
    });
}

#[test]
fn status_of_a_huge_disk_looks_at_a_bounded_part() {
    block_on(async {
        let size = 8 << 40;
        let rig = Rig::full(size);
        let disk = rig.attach();
        assert_eq!(disk.status(0, size).unwrap(), [(64 << 30, 3)]);
        assert_eq!(
            disk.status(size - (1 << 30), 1 << 30).unwrap(),
            [(1 << 30, 3)]
        );
    });
}

#[test]
fn the_end_of_a_disk_may_be_anywhere() {
    block_on(async {
        for size in [1, 511, CLUSTER - 1, CLUSTER + 1, 5 * CLUSTER + 512] {
            let rig = Rig::full(size);
            let disk = rig.attach();
            let len = usize::try_from(size).unwrap();
            disk.write(0, pattern(5, len)).await.unwrap();
            assert_eq!(disk.write(size, vec![1]).await, Err(NbdError::Invalid));
            assert_eq!(rig.ingest.progress().held, 0);
            rig.seal().await.unwrap();
            assert!(rig.read_sealed() == pattern(5, len));
        }
        let rig = Rig::full(0);
        rig.seal().await.unwrap();
        assert!(rig.read_sealed().is_empty());
    });
}

#[test]
fn several_threads_on_the_same_clusters_leave_whole_clusters() {
    let rig = Rig::full(32 * CLUSTER);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let ingest = &rig.ingest;
            scope.spawn(move || {
                block_on(async {
                    let disk = Disk::new(ingest);
                    for i in 0..60_u64 {
                        let first = (i * 7 + u64::from(thread) * 3) % 28;
                        let fill = thread * 60 + u8::try_from(i).unwrap() + 1;
                        match i % 6 {
                            0 => disk.zero(first * CLUSTER, 4 * CLUSTER).await.unwrap(),
                            1 => disk.flush().await.unwrap(),
                            2 => drop(disk.read(first * CLUSTER, 200_000).await.unwrap()),
                            _ => {
                                let bytes = vec![fill; 3 * 65536];
                                disk.write(first * CLUSTER, bytes).await.unwrap();
                            }
                        }
                    }
                });
            });
        }
    });
    block_on(async {
        // Also compares every checksum with the file.
        rig.seal().await.unwrap();
        for cluster in rig.read_sealed().chunks(65536) {
            assert!(cluster.iter().all(|b| *b == cluster[0]));
        }
    });
}

#[test]
fn a_cancelled_backup_takes_nothing_and_seals_nothing() {
    block_on(async {
        let rig = Rig::full(4 * CLUSTER);
        let disk = rig.attach();
        disk.write(0, pattern(1, 65536)).await.unwrap();
        rig.ingest.abort();
        rig.ingest.drained().await;
        assert_eq!(disk.write(0, vec![1]).await, Err(NbdError::Shutdown));
        assert_eq!(disk.read(0, 1).await, Err(NbdError::Shutdown));
        assert_eq!(disk.flush().await, Err(NbdError::Shutdown));
        assert!(matches!(
            rig.seal().await.unwrap_err().kind,
            ErrorKind::WrongState
        ));
    });
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: u64, len: u64, fill: u8 },
    Zero { at: u64, len: u64 },
    Trim { at: u64, len: u64 },
    Read { at: u64, len: u64 },
    Flush,
}

fn op(size: u64) -> impl Strategy<Value = Op> {
    let at = prop_oneof![
        0..size,
        (0..size).prop_map(|at| at / CLUSTER * CLUSTER),
        (0..size).prop_map(|at| at / 512 * 512),
    ];
    let len = prop_oneof![
        1..2000_u64,
        (1..6_u64).prop_map(|n| n * CLUSTER),
        1..6 * CLUSTER,
        1..size,
    ];
    (at, len, 0..12_u8, 0..4_u8).prop_map(move |(at, len, kind, fill)| {
        let len = len.min(size - at);
        match kind {
            0..=5 => Op::Write {
                at,
                len: len.min(16 * CLUSTER),
                fill,
            },
            6..=7 => Op::Zero { at, len },
            8 => Op::Trim { at, len },
            9..=10 => Op::Read { at, len },
            _ => Op::Flush,
        }
    })
}

/// Operations that share no byte run at once; one that does waits for those before it.
async fn play(rig: &Rig, model: &mut [u8], ops: &[Op]) {
    let connections: Vec<Disk> = (0..3).map(|_| rig.attach()).collect();
    let mut rest = ops;
    while !rest.is_empty() {
        let mut taken: Vec<(u64, u64)> = Vec::new();
        let together = rest.iter().take(6).take_while(|op| {
            let (at, end) = match op {
                Op::Write { at, len, .. } | Op::Zero { at, len } => (*at, at + len),
                Op::Trim { at, len } | Op::Read { at, len } => (*at, at + len),
                Op::Flush => (0, 0),
            };
            let free = taken.iter().all(|(a, e)| end <= *a || *e <= at);
            taken.push((at, end));
            free
        });
        let count = together.count();
        let (batch, later) = rest.split_at(count);
        rest = later;
        let before = &*model;
        let running = batch
            .iter()
            .zip(connections.iter().cycle())
            .map(|(op, disk)| async move {
                let index = |n: u64| usize::try_from(n).unwrap();
                match *op {
                    Op::Write { at, len, fill } => {
                        disk.write(at, pattern(fill, index(len))).await.unwrap()
                    }
                    Op::Zero { at, len } => disk.zero(at, len).await.unwrap(),
                    Op::Trim { at, len } => disk.trim(at, len).await.unwrap(),
                    Op::Flush => disk.flush().await.unwrap(),
                    Op::Read { at, len } => {
                        let read = disk.read(at, index(len)).await.unwrap();
                        assert!(
                            read == before[index(at)..index(at + len)],
                            "read {at} {len}"
                        );
                    }
                }
            });
        futures_util::future::join_all(running).await;
        for op in batch {
            let span = |at: u64, len: u64| {
                usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap()
            };
            match *op {
                Op::Write { at, len, fill } => {
                    let span = span(at, len);
                    let bytes = pattern(fill, span.len());
                    model[span].copy_from_slice(&bytes);
                }
                Op::Zero { at, len } | Op::Trim { at, len } => model[span(at, len)].fill(0),
                Op::Read { .. } | Op::Flush => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn like_an_array_of_bytes(
        sizes in (1..24 * CLUSTER, 1..24 * CLUSTER),
        full in prop::collection::vec(op(24 * CLUSTER), 0..30),
        overlay in prop::collection::vec(op(24 * CLUSTER), 0..30),
        bits in (prop::sample::select(&[16, 16, 18, 21][..]), 16..19_u32),
        seed: u64,
    ) {
        block_on(async {
            let clip = |ops: &[Op], size: u64| -> Vec<Op> {
                ops.iter().filter_map(|op| clip(op, size)).collect()
            };
            let base = Rig::slow(sizes.0, bits.0, None, seed);
            let mut model = vec![0; usize::try_from(sizes.0).unwrap()];
            play(&base, &mut model, &clip(&full, sizes.0)).await;
            base.seal().await.unwrap();
            assert!(base.read_sealed() == model);
            let child = Rig::slow(sizes.1, bits.1, Some(&base), seed);
            model.resize(usize::try_from(sizes.1).unwrap(), 0);
            play(&child, &mut model, &clip(&overlay, sizes.1)).await;
            child.seal().await.unwrap();
            assert!(child.read_sealed() == model);
        });
    }
}

fn clip(op: &Op, size: u64) -> Option<Op> {
    let mut op = op.clone();
    if let Op::Write { at, len, .. }
    | Op::Zero { at, len }
    | Op::Trim { at, len }
    | Op::Read { at, len } = &mut op
    {
        *len = (*len).min(size.saturating_sub(*at));
        if *len == 0 {
            return None;
        }
    }
    Some(op)
}
