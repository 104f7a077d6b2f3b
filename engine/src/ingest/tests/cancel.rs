//! Backups, seals and writes that nobody waits for any more.

use sendense_nbd::NbdError;

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};
use crate::ErrorKind;
use crate::storage::mem::OpKind;

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
