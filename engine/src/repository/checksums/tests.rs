//! Checksum files: what is written reads back, what is changed is noticed.

use proptest::prelude::*;

use super::*;
use crate::storage::mem::MemDirectory;
use crate::storage::{Create, Directory};

const CLUSTER: ClusterSize = ClusterSize::from_bits(9).unwrap();

fn sums(count: u64) -> Vec<u32> {
    (0..count)
        .map(|n| crc32fast::hash(&n.to_le_bytes()))
        .collect()
}

fn written(count: u64) -> (MemDirectory, ChecksumsRef) {
    let dir = MemDirectory::new();
    let file = dir.open("a.crc", Create::New).unwrap();
    let len = count * CLUSTER.bytes();
    let about = write_checksums(&*file, "a.crc", CLUSTER, len, &sums(count)).unwrap();
    (dir, about)
}

fn opened(dir: &MemDirectory, count: u64) -> Result<ChecksumFile> {
    let file = dir.open("a.crc", Create::OpenRead).unwrap();
    ChecksumFile::open(file, "a.crc", CLUSTER, count * CLUSTER.bytes())
}

#[test]
fn the_last_cluster_may_be_partial_and_is_compared_as_it_is() {
    let dir = MemDirectory::new();
    let file = dir.open("a.crc", Create::New).unwrap();
    let image: Vec<u8> = (0..1300u32).map(|n| n.to_le_bytes()[0]).collect();
    let sums: Vec<u32> = image.chunks(512).map(crc32fast::hash).collect();
    write_checksums(&*file, "a.crc", CLUSTER, 1300, &sums).unwrap();
    let file = ChecksumFile::open(file, "a.crc", CLUSTER, 1300).unwrap();
    assert_eq!(file.differing(0, &image).unwrap(), [0u64; 0]);
    assert_eq!(file.differing(2, &image[1024..]).unwrap(), [0u64; 0]);
    let mut bad = image.clone();
    bad[512] ^= 1;
    bad[1299] ^= 0x80;
    assert_eq!(file.differing(0, &bad).unwrap(), [1, 2]);
    assert!(file.differing(2, &image).is_err());
}

#[test]
fn a_wrong_number_of_checksums_is_refused() {
    let dir = MemDirectory::new();
    let file = dir.open("a.crc", Create::New).unwrap();
    let error = write_checksums(&*file, "a.crc", CLUSTER, 1024, &sums(3)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::WrongState);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let count = 1023 * 2 + 5;
    let (dir, about) = written(count);
    let file = dir.open("a.crc", Create::OpenWrite).unwrap();
    for at in (0..about.len).step_by(37) {
        let mut byte = [0];
        file.read_at_blocking(at, &mut byte).unwrap();
        file.write_at_blocking(at, &[byte[0] ^ 0x10]).unwrap();
        let noticed = opened(&dir, count)
            .and_then(|f| f.sums(0, usize::MAX))
            .is_err();
        assert!(noticed, "byte {at}");
        assert!(
            opened(&dir, count)
                .and_then(|f| f.check_whole(&about))
                .is_err()
        );
        file.write_at_blocking(at, &byte).unwrap();
    }
    opened(&dir, count).unwrap().check_whole(&about).unwrap();
}

#[test]
fn blocks_that_changed_places_are_noticed() {
    let (dir, _) = written(1023 * 2);
    let file = dir.open("a.crc", Create::OpenWrite).unwrap();
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    file.read_at_blocking(4096, &mut a).unwrap();
    file.read_at_blocking(8192, &mut b).unwrap();
    file.write_at_blocking(4096, &b).unwrap();
    file.write_at_blocking(8192, &a).unwrap();
    let error = opened(&dir, 1023 * 2).unwrap().sums(0, 1).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
}

#[test]
fn the_checksums_of_another_image_are_refused() {
    let (dir, _) = written(100);
    assert!(opened(&dir, 101).is_err());
    let file = dir.open("a.crc", Create::OpenRead).unwrap();
    let other = ClusterSize::from_bits(10).unwrap();
    assert!(ChecksumFile::open(file, "a.crc", other, 51_200).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_range_reads_back(
        count in prop_oneof![0u64..5, 1020u64..1030, 0u64..600_000],
        first in any::<prop::sample::Index>(),
        wanted in prop_oneof![0usize..3, 1000usize..3000, Just(usize::MAX)],
    ) {
        let (dir, about) = written(count);
        let file = opened(&dir, count).unwrap();
        file.check_whole(&about).unwrap();
        let all = sums(count);
        let first = first.index(all.len() + 1);
        let expected: Vec<u32> = all.iter().skip(first).take(wanted).copied().collect();
        prop_assert_eq!(file.sums(first as u64, wanted).unwrap(), expected);
        prop_assert!(file.sums(count, 1).unwrap().is_empty());
    }
}
