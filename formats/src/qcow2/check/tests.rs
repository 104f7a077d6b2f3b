use proptest::prelude::*;

use super::*;
use crate::fuzzing::fuzz_qcow2;
use crate::qcow2::layout::{
    AUTOCLEAR_BITMAPS, COMPRESSED, COPIED, EXT_BITMAPS, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY,
    ZERO,
};
use crate::qcow2::{Extension, RefcountShape};
use crate::range::ClusterSize;

const CLUSTER: u64 = 4096;

/// Clusters: 0 header, 1 refcount table, 2 refcount block, 3 L1, 4 L2, from 5 on whatever a test
/// puts there.
struct Built {
    header: Header,
    file: Vec<u8>,
    order: u32,
}

impl Built {
    /// An image of `clusters` clusters; guest cluster `i` has L2 entry `entries[i]`. Clusters 0 to 4
    /// and those that a copied entry names are counted once.
    fn new(clusters: u64, entries: &[u64]) -> Self {
        Self::with_order(clusters, entries, 4)
    }

    fn with_order(clusters: u64, entries: &[u64], order: u32) -> Self {
        let mut header = Header::new(ClusterSize::from_bits(12).unwrap(), 16 * CLUSTER);
        header.refcount_order = order;
        header.refcount_table_at = HostOffset::new(CLUSTER);
        header.refcount_table_clusters = 1;
        header.l1_at = HostOffset::new(3 * CLUSTER);
        header.l1_entries = 1;
        let mut built = Self {
            header,
            file: vec![0; (clusters * CLUSTER) as usize],
            order,
        };
        built.write_header();
        built.put(CLUSTER, 2 * CLUSTER);
        built.put(3 * CLUSTER, (4 * CLUSTER) | COPIED);
        for cluster in 0..5 {
            built.count(cluster, 1);
        }
        for (i, entry) in entries.iter().enumerate() {
            built.put(4 * CLUSTER + 8 * i as u64, *entry);
            if *entry & COPIED != 0 && entry / CLUSTER % (1 << 40) < clusters {
                built.count((entry & !COPIED) / CLUSTER, 1);
            }
        }
        built
    }

    fn write_header(&mut self) {
        let bytes = self.header.encode().unwrap();
        self.file[..CLUSTER as usize].copy_from_slice(&bytes);
    }

    fn put(&mut self, at: u64, value: u64) -> &mut Self {
        self.file[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
        self
    }

    fn put32(&mut self, at: u64, value: u32) {
        self.file[at as usize..at as usize + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn count(&mut self, cluster: u64, refcount: u64) -> &mut Self {
        let shape = RefcountShape::new(self.order, self.header.cluster).unwrap();
        let block = &mut self.file[2 * CLUSTER as usize..3 * CLUSTER as usize];
        shape.set(block, cluster, refcount).unwrap();
        self
    }

    fn report(&self) -> CheckReport {
        check(&self.file, OpenPolicy::default()).unwrap()
    }

    /// Corruptions, leaks.
    fn found(&self) -> (u64, u64) {
        let report = self.report();
        assert_eq!(
            report.findings.len() as u64,
            report.corruptions + report.leaks
        );
        (report.corruptions, report.leaks)
    }

    fn repaired(&self) -> (u64, u64) {
        let mut file = self.file.clone();
        for (at, bytes) in repair_leaks(&self.report()).unwrap() {
            let at = at.get() as usize;
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let report = check(&file, OpenPolicy::default()).unwrap();
        (report.corruptions, report.leaks)
    }
}

fn data(cluster: u64) -> u64 {
    (cluster * CLUSTER) | COPIED
}

#[test]
fn a_clean_image_is_clean_and_told_in_numbers() {
    for order in 0..=6 {
        let kept_zero = data(8) | ZERO;
        let entries = [data(5), data(6), 0, data(7), ZERO, kept_zero, data(10)];
        let built = Built::with_order(12, &entries, order);
        let report = built.report();
        assert!(report.is_clean(), "{order}: {:?}", report.findings);
        assert_eq!(report.exit_code(), 0);
        assert_eq!((report.total_clusters, report.allocated_clusters), (16, 5));
        assert_eq!(
            (report.compressed_clusters, report.fragmented_clusters),
            (0, 1)
        );
        assert_eq!(report.image_end.get(), 11 * CLUSTER);
    }
}

#[test]
fn leaks_are_found_and_repaired() {
    for order in 0..=6 {
        let mut built = Built::with_order(9, &[data(6)], order);
        built.count(5, 1).count(8, 1);
        assert_eq!(built.found(), (0, 2), "{order}");
        assert_eq!(built.report().exit_code(), 3);
        assert_eq!(built.repaired(), (0, 0));
    }
}

#[test]
fn counted_twice_and_used_once_is_both_and_goes_with_the_leak() {
    let mut built = Built::new(6, &[data(5)]);
    built.count(5, 2);
    assert_eq!(built.found(), (1, 1));
    assert_eq!(built.report().exit_code(), 2);
    assert_eq!(built.repaired(), (0, 0));
}

#[test]
fn a_wrong_copied_flag_is_a_corruption() {
    let mut built = Built::new(6, &[5 * CLUSTER]);
    built.count(5, 1);
    assert_eq!(built.found(), (1, 0));
    let mut built = Built::new(6, &[data(5)]);
    built.put(3 * CLUSTER, 4 * CLUSTER);
    assert_eq!(built.found(), (1, 0));
}

#[test]
fn used_and_not_counted_is_a_corruption_and_stops_the_repair() {
    let mut built = Built::new(9, &[data(5)]);
    built.count(5, 0).count(8, 1);
    // The count, the flag that it contradicts, and the leak.
    assert_eq!(built.found(), (2, 1));
    assert_eq!(
        repair_leaks(&built.report()).unwrap_err().kind,
        ErrorKind::WrongState
    );
    let mut table = Built::new(5, &[]);
    table.put(CLUSTER, 0);
    let (corruptions, leaks) = table.found();
    assert!(corruptions >= 4 && leaks == 0);
}

#[test]
fn data_on_top_of_a_table_is_a_corruption_whatever_is_counted() {
    for table in 1..5 {
        let mut built = Built::new(6, &[table * CLUSTER]);
        built.count(table, 2);
        if table == 4 {
            built.put(3 * CLUSTER, 4 * CLUSTER);
        }
        assert_eq!(built.found(), (1, 0), "{table}");
    }
    // Two guest clusters on one host cluster, counted twice: QEMU calls that clean.
    let mut shared = Built::new(6, &[5 * CLUSTER, 5 * CLUSTER]);
    shared.count(5, 2);
    assert_eq!(shared.found(), (0, 0));
}

#[test]
fn entries_that_point_nowhere_are_corruptions() {
    let entry = |raw| Built::new(7, &[raw]).found();
    assert_eq!(entry(5 * CLUSTER + 512), (1, 0));
    assert_eq!(entry(7 * CLUSTER), (1, 0));
    assert_eq!(entry(2), (1, 0));
    assert_eq!(entry(COMPRESSED | (7 * CLUSTER)), (1, 0));
    let l1 = |raw| Built::new(7, &[]).put(3 * CLUSTER, raw).found();
    assert_eq!(l1(4 * CLUSTER + 512), (1, 1));
    assert_eq!(l1(7 * CLUSTER), (1, 1));
    assert_eq!(l1((4 * CLUSTER) | COPIED | 1), (1, 0));
    assert_eq!(l1(COPIED), (1, 1));
    let table = |raw| Built::new(7, &[]).put(CLUSTER + 8, raw).found();
    assert_eq!(table(1), (1, 0));
    assert_eq!(table(512), (1, 0));
    assert_eq!(table(7 * CLUSTER), (1, 0));
    assert_eq!(table(4 * CLUSTER).0, 2);
}

#[test]
fn the_last_cluster_may_be_cut_but_no_table() {
    let mut built = Built::new(6, &[data(5)]);
    built.file.truncate(5 * CLUSTER as usize + 1);
    assert_eq!(built.found(), (0, 0));
    let mut built = Built::new(5, &[]);
    built.file.truncate(5 * CLUSTER as usize - 8);
    assert_eq!(built.found(), (1, 0));
}

#[test]
fn packed_clusters_share_their_host_cluster() {
    // 58 offset bits; both in cluster 5, the second goes on into cluster 6.
    let first = COMPRESSED | (5 * CLUSTER);
    let second = COMPRESSED | 2 << 58 | (6 * CLUSTER - 700);
    let mut built = Built::new(7, &[first, second]);
    built.count(5, 2).count(6, 1);
    let report = built.report();
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!(
        (report.allocated_clusters, report.compressed_clusters),
        (2, 2)
    );
    assert_eq!(report.fragmented_clusters, 2);
    built.put(4 * CLUSTER, first | COPIED);
    assert_eq!(built.found(), (1, 0));
}

/// A snapshot in cluster 6, its L1 in cluster 7; it shares the L2 table and the data in cluster 5.
fn with_snapshot() -> Built {
    let mut built = Built::new(8, &[5 * CLUSTER]);
    built.header.snapshots = 1;
    built.header.snapshots_at = HostOffset::new(6 * CLUSTER);
    built.write_header();
    built
        .put(3 * CLUSTER, 4 * CLUSTER)
        .put(7 * CLUSTER, 4 * CLUSTER);
    built.put(6 * CLUSTER, 7 * CLUSTER);
    built.put32(6 * CLUSTER + 8, 1);
    built.put32(6 * CLUSTER + 36, 16);
    built.count(4, 2).count(5, 2).count(6, 1).count(7, 1);
    built
}

#[test]
fn snapshots_count_what_they_hold() {
    let built = with_snapshot();
    assert_eq!(built.found(), (0, 0));
    assert_eq!(built.report().allocated_clusters, 1);

    let mut short = with_snapshot();
    short.put32(6 * CLUSTER + 36, 0);
    assert_eq!(short.found(), (1, 0));
    for at in [0, 6 * CLUSTER + 8, 9 * CLUSTER] {
        let mut lost = with_snapshot();
        lost.header.snapshots_at = HostOffset::new(at);
        lost.write_header();
        assert!(lost.found().0 > 0 && repair_leaks(&lost.report()).is_err());
    }
    let mut odd = with_snapshot();
    odd.put(6 * CLUSTER, 7 * CLUSTER + 8);
    assert_eq!(odd.found(), (1, 3));
    let mut many = with_snapshot();
    many.header.snapshots = 60;
    many.write_header();
    assert!(many.found().0 > 0);
}

/// A directory of so many bytes at cluster 5, with one bitmap.
fn with_bitmap(directory: u64) -> Built {
    let mut built = Built::new(8, &[]);
    let mut area = Vec::new();
    area.extend_from_slice(&1_u32.to_be_bytes());
    area.extend_from_slice(&[0; 4]);
    area.extend_from_slice(&directory.to_be_bytes());
    area.extend_from_slice(&(5 * CLUSTER).to_be_bytes());
    built.header.extensions.push(Extension {
        kind: EXT_BITMAPS,
        data: area,
    });
    built.header.autoclear = AUTOCLEAR_BITMAPS;
    built.write_header();
    // The directory names a table of two parts: all ones, and cluster 7.
    built.put(5 * CLUSTER, 6 * CLUSTER);
    built.put32(5 * CLUSTER + 8, 2);
    built.put32(5 * CLUSTER + 16, 0x0110_0002);
    built.put(6 * CLUSTER, 1).put(6 * CLUSTER + 8, 7 * CLUSTER);
    built.count(5, 1).count(6, 1).count(7, 1);
    built
}

#[test]
fn bitmaps_count_what_they_hold() {
    let mut built = with_bitmap(32);
    assert_eq!(built.found(), (0, 0));
    built.put(6 * CLUSTER + 8, 7 * CLUSTER + 8);
    assert_eq!(built.found(), (1, 1));
    // Inconsistent bitmaps are not followed: their clusters leak, as QEMU says.
    built.header.autoclear = 0;
    built.write_header();
    assert_eq!(built.found(), (0, 3));
    assert_eq!(built.repaired(), (0, 0));
}

#[test]
fn header_flags_are_told_apart_from_the_verdict() {
    let mut built = Built::new(6, &[]);
    built.header.incompatible = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
    built.write_header();
    built.count(5, 1);
    let report = built.report();
    assert!(report.dirty && report.corrupt);
    assert_eq!(report.exit_code(), 3);
    assert!(repair_leaks(&report).is_err());
}

#[test]
fn findings_in_words_are_capped() {
    let mut built = Built::with_order(2000, &[], 4);
    for cluster in 5..2000 {
        built.count(cluster, 1);
    }
    let report = built.report();
    assert_eq!((report.leaks, report.findings.len()), (1995, MAX_FINDINGS));
    assert_eq!(report.findings_left_out(), 995);
    assert_eq!(built.repaired(), (0, 0));
}

/// A file that claims to be much longer than what it holds.
struct Sparse(Vec<u8>, u64);

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.1
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.as_slice().read_at(at, buf)
    }
}

#[test]
fn tables_that_only_claim_to_be_large_are_findings_and_not_walked() {
    let mut entries = with_bitmap(32);
    entries.put32(5 * CLUSTER + 8, 0x0800_0001);
    let extra = |bytes| {
        let mut built = with_snapshot();
        built.put32(6 * CLUSTER + 36, bytes);
        built
    };
    let mut table = extra(1024);
    table.header.snapshots = 65536;
    table.write_header();
    for (built, words) in [
        (with_bitmap(1 << 43), "the bitmap directory"),
        (with_bitmap((64 << 20) + 8), "the bitmap directory"),
        (entries, "the table of bitmap 0"),
        (extra(1025), "entry 0 of the snapshot table"),
        (extra(u32::MAX), "entry 0 of the snapshot table"),
        (table, "of the snapshot table"),
    ] {
        let report = check(&Sparse(built.file, 1 << 44), OpenPolicy::default()).unwrap();
        let told = |f: &Finding| f.detail.contains(words) && f.detail.contains("large");
        assert!(report.findings.iter().any(told), "{words}: {report:?}");
    }
}

#[test]
fn repairs_are_kept_only_where_there_may_be_any() {
    // A leak, then in later blocks' clusters more of them, and a cluster that is not counted.
    let mut built = Built::new(9, &[data(5), data(7)]);
    built.count(6, 1).count(8, 1);
    assert!(!built.report().repairs.is_empty());
    built.count(7, 0);
    let report = built.report();
    assert_eq!((report.corruptions, report.leaks), (2, 2));
    assert!(report.repairs.is_empty() && repair_leaks(&report).is_err());
}

#[test]
fn a_huge_sparse_file_costs_what_it_holds() {
    let far = 1 << 49;
    let built = Built::new(6, &[far | COPIED, data(5)]);
    let report = check(&Sparse(built.file, 1 << 50), OpenPolicy::default()).unwrap();
    // The far cluster is not counted by any block.
    assert_eq!((report.corruptions, report.leaks), (2, 0));
    assert_eq!(report.image_end.get(), far + CLUSTER);
}

#[test]
fn what_cannot_be_opened_cannot_be_checked() {
    let refused = check(&vec![0_u8; 4096], OpenPolicy::default());
    assert!(matches!(refused, Err(OpenError::Format(e)) if e.kind == ErrorKind::NotThisFormat));
}

proptest! {
    #[test]
    fn damaged_images_keep_the_promises_of_the_fuzz_body(
        edits in proptest::collection::vec(
            (0_usize..8 * 512, prop_oneof![
                any::<u64>(),
                (0_u64..9).prop_map(|c| c * CLUSTER),
                (0_u64..9).prop_map(|c| (c * CLUSTER) | COPIED),
                (0_u64..9 * CLUSTER).prop_map(|b| b | COMPRESSED),
                (0_u64..4).prop_map(|n| n << 48 | n << 32 | n << 16 | n),
            ]),
            0..5,
        ),
        snapshot in any::<bool>(),
        extended in any::<bool>(),
        cut in 0_usize..5000,
    ) {
        let mut built = if snapshot {
            with_snapshot()
        } else {
            Built::new(8, &[data(5), ZERO, data(6), COMPRESSED | (7 * CLUSTER)])
        };
        if extended {
            built.file[79] = 0x10;
        }
        for (word, value) in edits {
            // Mostly in the tables, where it hurts.
            let at = word as u64 % 512 * 8 + (word as u64 / 512) * CLUSTER;
            built.put(at, value);
        }
        let len = built.file.len();
        built.file.truncate(len - cut);
        fuzz_qcow2(&built.file);
    }

    #[test]
    fn random_bytes_behind_a_magic_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 512..3000),
        bits in 9_u8..12,
    ) {
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        bytes[8..20].fill(0);
        bytes[20..32].copy_from_slice(&[0, 0, 0, bits, 0, 0, 0, 0, 0, 0, 0x20, 0]);
        bytes[32..56].copy_from_slice(&[
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8, 0,
        ]);
        bytes[56..104].fill(0);
        bytes[59] = 1;
        bytes[99] = 4;
        bytes[103] = 104;
        fuzz_qcow2(&bytes);
    }
}
