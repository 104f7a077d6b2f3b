//! Storage that fails: what it poisons, and that nothing half-made looks like an image.

use sendense_nbd::NbdError;

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};
use crate::storage::mem::{Fault, OpKind};

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
