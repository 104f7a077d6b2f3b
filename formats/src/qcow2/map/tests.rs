use proptest::prelude::*;

use super::*;
use crate::qcow2::layout::{COMPRESSED, COPIED, INCOMPATIBLE_EXTENDED_L2, ZERO};
use crate::qcow2::{OpenPolicy, ReadAt, open};

const CLUSTER: u64 = 16384;

/// Header, refcount table, L1, L2, then clusters 4 to 9.
fn image(extended: bool, size: u64, entries: &[(u64, u64)]) -> Vec<u8> {
    let mut header = Header::new(ClusterSize::from_bits(14).unwrap(), size);
    header.incompatible = if extended {
        INCOMPATIBLE_EXTENDED_L2
    } else {
        0
    };
    header.refcount_table_at = HostOffset::new(CLUSTER);
    header.refcount_table_clusters = 1;
    header.l1_at = HostOffset::new(2 * CLUSTER);
    header.l1_entries = u32::try_from(header.tables_needed()).unwrap();
    let mut file = header.encode().unwrap();
    file.resize(10 * CLUSTER as usize, 0);
    put(
        &mut file,
        2 * CLUSTER,
        L1Entry::owned(HostOffset::new(3 * CLUSTER)).raw(),
    );
    for (i, (raw, bitmap)) in entries.iter().enumerate() {
        let at = 3 * CLUSTER + i as u64 * if extended { 16 } else { 8 };
        put(&mut file, at, *raw);
        if extended {
            put(&mut file, at + 8, *bitmap);
        }
    }
    file
}

fn put(file: &mut [u8], at: u64, value: u64) {
    file[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

fn map(file: &[u8], start: u64, len: u64) -> Result<Vec<Mapping>> {
    let image = open(file, OpenPolicy::default()).unwrap();
    let range = GuestRange::new(start, len).unwrap();
    let TableAt::At { host, len } = image.table(0)? else {
        return image.map_table(0, None, range);
    };
    let mut table = vec![0; len];
    file.read_at(host, &mut table).unwrap();
    image.map_table(0, Some(&table), range)
}

fn shown(found: &[Mapping]) -> Vec<(u64, u64, Target)> {
    let tuple = |m: &Mapping| (m.range.start().get(), m.range.len(), m.target);
    found.iter().map(tuple).collect()
}

fn data(at: u64) -> Target {
    Target::Data {
        host: HostOffset::new(at),
    }
}

fn zero(at: Option<u64>) -> Target {
    Target::Zero {
        host: at.map(HostOffset::new),
    }
}

#[test]
fn neighbours_become_runs_and_the_end_is_clipped() {
    let file = image(
        false,
        7 * CLUSTER - 512,
        &[
            ((4 * CLUSTER) | COPIED, 0),
            ((5 * CLUSTER) | COPIED, 0),
            ((7 * CLUSTER) | COPIED, 0),
            (0, 0),
            (ZERO, 0),
            (ZERO, 0),
            ((8 * CLUSTER) | ZERO, 0),
        ],
    );
    let all = map(&file, 0, u64::MAX).unwrap();
    assert_eq!(
        shown(&all),
        [
            (0, 2 * CLUSTER, data(4 * CLUSTER)),
            (2 * CLUSTER, CLUSTER, data(7 * CLUSTER)),
            (3 * CLUSTER, CLUSTER, Target::Unallocated),
            (4 * CLUSTER, 2 * CLUSTER, zero(None)),
            (6 * CLUSTER, CLUSTER - 512, zero(Some(8 * CLUSTER))),
        ]
    );
    let part = map(&file, CLUSTER + 100, CLUSTER).unwrap();
    assert_eq!(
        shown(&part),
        [
            (CLUSTER + 100, CLUSTER - 100, data(5 * CLUSTER + 100)),
            (2 * CLUSTER, 100, data(7 * CLUSTER)),
        ]
    );
    assert!(map(&file, 7 * CLUSTER, CLUSTER).unwrap().is_empty());
}

#[test]
fn compressed_clusters_stay_single_and_inside_the_file() {
    let at = 9 * CLUSTER + 11;
    let sectors = 1 << 56;
    let entry = |at| COMPRESSED | sectors | at;
    let file = image(
        false,
        2 * CLUSTER,
        &[(entry(at), 0), (entry(at + 16300), 0)],
    );
    let found = map(&file, 0, 2 * CLUSTER).unwrap();
    let packed = |at, len| Target::Compressed {
        host: HostOffset::new(at),
        len,
    };
    assert_eq!(
        shown(&found),
        [
            (0, CLUSTER, packed(at, 1024 - 11)),
            (CLUSTER, CLUSTER, packed(at + 16300, 16384 - 11 - 16300)),
        ]
    );
    let beyond = image(false, CLUSTER, &[(entry(10 * CLUSTER), 0)]);
    assert_eq!(map(&beyond, 0, 1).unwrap_err().kind, ErrorKind::Truncated);
}

#[test]
fn subclusters_are_mapped_one_by_one() {
    let sub = CLUSTER / 32;
    let file = image(
        true,
        4 * CLUSTER,
        &[
            // 0 and 1 data, 2 zero, the rest unallocated.
            ((4 * CLUSTER) | COPIED, 1 << 34 | 0b11),
            ((5 * CLUSTER) | COPIED, 0xffff_ffff),
            // Zero without a cluster in subclusters 0 to 15.
            (0, 0xffff << 32),
            ((6 * CLUSTER) | COPIED, 0),
        ],
    );
    assert_eq!(
        shown(&map(&file, 0, 4 * CLUSTER).unwrap()),
        [
            (0, 2 * sub, data(4 * CLUSTER)),
            (2 * sub, sub, zero(Some(4 * CLUSTER + 2 * sub))),
            (3 * sub, 29 * sub, Target::Unallocated),
            (CLUSTER, CLUSTER, data(5 * CLUSTER)),
            (2 * CLUSTER, CLUSTER / 2, zero(None)),
            (
                2 * CLUSTER + CLUSTER / 2,
                CLUSTER + CLUSTER / 2,
                Target::Unallocated
            ),
        ]
    );
    let odd = map(&file, sub + 7, sub).unwrap();
    assert_eq!(
        shown(&odd),
        [
            (sub + 7, sub - 7, data(4 * CLUSTER + sub + 7)),
            (2 * sub, 7, zero(Some(4 * CLUSTER + 2 * sub))),
        ]
    );
    for bad in [(4 * CLUSTER, 1 << 32 | 1), (0, 1)] {
        let file = image(true, CLUSTER, &[bad]);
        assert_eq!(map(&file, 0, 1).unwrap_err().kind, ErrorKind::Malformed);
    }
}

#[test]
fn damage_is_an_error_and_never_silent() {
    let of = |raw| {
        map(&image(false, CLUSTER, &[(raw, 0)]), 0, 1)
            .unwrap_err()
            .kind
    };
    assert_eq!(of(4 * CLUSTER + 512), ErrorKind::Malformed);
    assert_eq!(of((4 * CLUSTER + 512) | ZERO), ErrorKind::Malformed);
    assert_eq!(of(10 * CLUSTER), ErrorKind::Truncated);

    let mut v2 = image(false, CLUSTER, &[(ZERO, 0)]);
    v2[7] = 2;
    v2[72..112].fill(0);
    assert_eq!(map(&v2, 0, 1).unwrap_err().kind, ErrorKind::Malformed);

    for (l1, kind) in [
        (3 * CLUSTER + 512, ErrorKind::Malformed),
        (10 * CLUSTER, ErrorKind::Truncated),
    ] {
        let mut file = image(false, CLUSTER, &[]);
        put(&mut file, 2 * CLUSTER, l1);
        assert_eq!(map(&file, 0, 1).unwrap_err().kind, kind);
    }
    let image = open(&image(false, CLUSTER, &[]), OpenPolicy::default()).unwrap();
    let one = GuestRange::new(0, 1).unwrap();
    assert_eq!(image.table(1).unwrap_err().kind, ErrorKind::OutOfRange);
    let short = image.map_table(0, Some(&[0; 8]), one).unwrap_err();
    assert_eq!(short.kind, ErrorKind::WrongState);
}

#[test]
fn a_file_may_end_inside_of_its_last_cluster() {
    let mut file = image(false, CLUSTER, &[((9 * CLUSTER) | COPIED, 0)]);
    file.truncate(9 * CLUSTER as usize + 1);
    assert_eq!(
        shown(&map(&file, 0, CLUSTER).unwrap()),
        [(0, CLUSTER, data(9 * CLUSTER))]
    );
}

#[test]
fn an_empty_disk_has_no_tables() {
    let file = image(false, 0, &[]);
    let image = open(&file, OpenPolicy::default()).unwrap();
    assert_eq!((image.tables(), image.virtual_size()), (0, 0));
    assert!(image.table(0).is_err());
}

proptest! {
    #[test]
    fn maps_cover_the_range_once_and_in_order(
        entries in proptest::collection::vec((
            prop_oneof![
                Just(0), Just(ZERO), (4_u64..10).prop_map(|c| c * CLUSTER),
                (4_u64..10).prop_map(|c| (c * CLUSTER) | ZERO),
                (0_u64..9 * CLUSTER).prop_map(|b| b | COMPRESSED),
            ],
            any::<u32>(), any::<u32>(),
        ), 1..12),
        extended in any::<bool>(),
        start in 0_u64..13 * CLUSTER,
        len in 0_u64..13 * CLUSTER,
        cut in 1_u64..CLUSTER,
    ) {
        let entries: Vec<_> = entries
            .iter()
            .map(|(raw, a, z)| {
                let allocated = if raw & layout::OFFSET_MASK == 0 { 0 } else { *a & !*z };
                (*raw, u64::from(allocated) | u64::from(*z) << 32)
            })
            .collect();
        let size = entries.len() as u64 * CLUSTER - cut;
        let file = image(extended, size, &entries);
        let found = map(&file, start, len).unwrap();
        let mut at = start;
        for m in &found {
            prop_assert_eq!(m.range.start().get(), at);
            prop_assert!(!m.range.is_empty());
            if let Target::Compressed { .. } = m.target {
                let last = m.range.end().get() - 1;
                prop_assert_eq!(at / CLUSTER, last / CLUSTER);
            }
            at = m.range.end().get();
        }
        prop_assert_eq!(at.max(start), (start + len).min(size).max(start));
    }
}
