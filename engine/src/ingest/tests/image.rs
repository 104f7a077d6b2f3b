//! What a sealed image reads as.

use sendense_nbd::NbdError;

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};

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
