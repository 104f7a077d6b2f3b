//! What must come again before a seal: bytes that never came, were refused or failed.

use sendense_formats::{ChangeList, GuestRange};
use sendense_nbd::NbdError;

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};
use crate::ErrorKind;
use crate::ingest::CoverageRule;
use crate::storage::mem::OpKind;

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
