use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) fn options(size: u64, bits: u32, overlay: bool) -> CreateOptions {
    CreateOptions {
        virtual_size: size,
        cluster: ClusterSize::from_bits(bits).unwrap(),
        backing: overlay.then(|| Backing {
            name: "parent.qcow2".into(),
            format: Some("qcow2".into()),
        }),
    }
}

fn index(n: u64) -> ClusterIndex {
    ClusterIndex::new(n)
}

#[test]
fn a_write_is_seen_only_when_it_is_settled_as_done() {
    let mut w = Writer::create(options(1 << 30, 16, true)).unwrap();
    let plan = w.plan_write(index(5), 3).unwrap();
    let run = plan.runs[0];
    assert_eq!((run.count, run.host.get(), run.fresh), (3, 65536, true));
    assert_eq!(w.slot(index(5)), Slot::Unallocated);
    w.settle(plan, Outcome::Failed).unwrap();
    assert_eq!(w.slot(index(5)), Slot::Unallocated);
    let again = w.plan_write(index(5), 3).unwrap();
    assert_eq!(
        (again.runs[0].host.get(), again.runs[0].fresh),
        (65536, false)
    );
    w.settle(again, Outcome::Done).unwrap();
    assert_eq!(w.slot(index(7)), Slot::Data(HostOffset::new(3 * 65536)));
    assert_eq!(w.data_end().get(), 4 * 65536);
}

#[test]
fn a_zeroed_cluster_keeps_its_place_in_the_file() {
    for (overlay, zero) in [(true, Slot::Zero), (false, Slot::Unallocated)] {
        let mut w = Writer::create(options(1 << 30, 16, overlay)).unwrap();
        let plan = w.plan_write(index(0), 4).unwrap();
        w.settle(plan, Outcome::Done).unwrap();
        w.plan_zero(index(0), w.clusters()).unwrap();
        assert_eq!(w.slot(index(2)), zero);
        assert_eq!(w.counts().unused_host_clusters, 4);
        let plan = w.plan_write(index(2), 4).unwrap();
        assert_eq!(plan.runs.len(), 2);
        assert_eq!(plan.runs[0].host.get(), 3 * 65536);
        assert_eq!(plan.runs[1].host.get(), 5 * 65536);
        w.settle(plan, Outcome::Done).unwrap();
        assert_eq!(w.slot(index(1)), zero);
        assert_eq!(w.counts().data_clusters, 4);
    }
}

#[test]
fn a_whole_disk_of_64_tib_is_zeroed_without_memory() {
    let mut w = Writer::create(options(64 << 40, 16, true)).unwrap();
    let before = w.table_memory();
    w.plan_zero(index(0), w.clusters()).unwrap();
    assert_eq!(w.table_memory(), before);
    assert_eq!(w.counts().zero_clusters, w.clusters());
    let all = GuestRange::new(0, 64 << 40).unwrap();
    assert_eq!(w.map(all, 10).len(), 1);
    assert_eq!(w.map(all, 10)[0].range, all);
}

#[test]
fn memory_follows_what_is_touched_not_what_is_claimed() {
    // Four million tables.
    let mut w = Writer::create(options(2 << 50, 16, true)).unwrap();
    let (all, before) = (w.clusters(), w.table_memory());
    assert!(before < 1 << 20, "{before}");
    w.plan_zero(index(0), all).unwrap();
    assert_eq!((w.table_memory(), w.counts().zero_clusters), (before, all));
    let plan = w.plan_write(index(all - 1), 1).unwrap();
    w.settle(plan, Outcome::Done).unwrap();
    assert!(w.table_memory() < before + (256 << 10));
    assert_eq!(w.counts().zero_clusters, all - 1);
    assert_eq!(w.slot(index(all - 2)), Slot::Zero);
    // A part, and what was data once: its place is kept.
    w.plan_zero(index(1), all - 1).unwrap();
    assert_eq!(
        (w.counts().zero_clusters, w.counts().unused_host_clusters),
        (all, 1)
    );
    let plan = w.plan_write(index(all - 1), 1).unwrap();
    assert_eq!(plan.runs[0].host.get(), 65536);
    w.settle(plan, Outcome::Done).unwrap();
    assert_eq!(w.counts().data_clusters, 1);
}

#[test]
fn an_odd_size_is_whole_sectors_in_the_header() {
    for (size, header) in [(0, 0), (1, 512), (512, 512), (65536 + 123, 65536 + 512)] {
        let mut w = Writer::create(options(size, 16, false)).unwrap();
        assert_eq!(w.virtual_size(), size);
        let seal = w.seal().unwrap();
        let parsed = crate::qcow2::Header::parse(&seal.header(), seal.file_len()).unwrap();
        assert_eq!(parsed.virtual_size, header);
        assert!(is_image_size(header, size) && is_image_size(size, size));
        assert!(!is_image_size(header + 512, size));
    }
}

#[test]
fn impossible_disks_and_requests_are_refused() {
    let kind = |o| Writer::create(o).unwrap_err().kind;
    assert_eq!(kind(options(1 << 30, 15, false)), ErrorKind::Unsupported);
    assert_eq!(kind(options(3 << 50, 16, false)), ErrorKind::TooLarge);
    assert_eq!(kind(options(u64::MAX, 21, false)), ErrorKind::TooLarge);
    assert!(Writer::create(options(2 << 50, 16, false)).is_ok());
    // What our own reader would refuse is not begun.
    assert_eq!(kind(options((1 << 60) + 1, 21, false)), ErrorKind::TooLarge);
    assert!(Writer::create(options(1 << 60, 21, false)).is_ok());
    for format in [None, Some(""), Some("sixteen-letters!")] {
        let mut long = options(1 << 30, 16, true);
        long.backing.as_mut().unwrap().format = format.map(str::to_owned);
        assert_eq!(kind(long), ErrorKind::Denied);
    }
    let mut w = Writer::create(options(65537, 16, false)).unwrap();
    assert_eq!(w.clusters(), 2);
    for (first, count) in [(0, 3), (2, 1), (0, 0), (u64::MAX, 2)] {
        let kind = w.plan_write(index(first), count).unwrap_err().kind;
        assert_eq!(kind, ErrorKind::OutOfRange);
        assert!(w.plan_zero(index(first), count).is_err());
    }
    let stray = WritePlan {
        runs: vec![Run {
            first: index(0),
            count: 1,
            host: HostOffset::new(65536),
            fresh: true,
        }],
    };
    let kind = w.settle(stray, Outcome::Done).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::WrongState);
}

#[test]
fn nothing_is_planned_after_the_seal() {
    let mut w = Writer::create(options(1 << 20, 16, false)).unwrap();
    let plan = w.plan_write(index(0), 1).unwrap();
    let seal = w.seal().unwrap();
    let kind = w.settle(plan, Outcome::Done).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::WrongState);
    assert!(w.plan_write(index(1), 1).is_err());
    assert!(w.plan_zero(index(1), 1).is_err());
    assert!(w.seal().is_err());
    drop(seal);
    assert!(w.plan_write(index(1), 1).is_err());
}

/// Reads an image the long way, from nothing but its bytes: refcounts against references.
fn audit(w: &Writer, seal: &Seal) -> BTreeMap<u64, u64> {
    let cs = w.cluster().bytes();
    let mut file: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut next = seal.metadata_at();
    for (at, piece) in seal.metadata() {
        assert_eq!(at, next);
        assert!(piece.len() <= 4 << 20);
        let mut again = vec![1; piece.len()];
        seal.fill_metadata(at, &mut again).unwrap();
        assert!(again == piece);
        next = HostOffset::new(at.get() + piece.len() as u64);
        for (i, c) in piece.chunks(w.cluster().bytes_usize()).enumerate() {
            file.insert(at.get() + i as u64 * cs, c.to_vec());
        }
    }
    assert_eq!(next.get(), seal.file_len());
    let header = seal.header();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let mut references: BTreeMap<u64, u64> = BTreeMap::from([(0, 1)]);
    let mut refer = |at: u64| {
        assert_eq!(at % cs, 0);
        *references.entry(at / cs).or_default() += 1;
    };
    let copied = |entry: u64| {
        assert_eq!(entry >> 63, 1);
        entry & !(1 << 63)
    };
    let mut guest = BTreeMap::new();
    let entries = u32::from_be_bytes(header[36..40].try_into().unwrap());
    let l1_at = word(&header, 40);
    let l1_clusters = (u64::from(entries) * 8).div_ceil(cs).max(1);
    let mut cluster = 0;
    for i in 0..l1_clusters {
        refer(l1_at + i * cs);
        for l1 in file[&(l1_at + i * cs)].chunks(8).map(|e| word(e, 0)) {
            if l1 == 0 {
                cluster += cs / 8;
                continue;
            }
            refer(copied(l1));
            for l2 in file[&copied(l1)].chunks(8).map(|e| word(e, 0)) {
                if l2 > 1 {
                    refer(copied(l2));
                }
                if l2 != 0 {
                    guest.insert(cluster, if l2 == 1 { 0 } else { copied(l2) });
                }
                cluster += 1;
            }
        }
    }
    let table_at = word(&header, 48);
    let mut counts = BTreeMap::new();
    let mut base = 0;
    for i in 0..u64::from(u32::from_be_bytes(header[56..60].try_into().unwrap())) {
        refer(table_at + i * cs);
        for block in file[&(table_at + i * cs)].chunks(8).map(|e| word(e, 0)) {
            if block != 0 {
                refer(block);
                for (n, c) in file[&block]
                    .chunks(2)
                    .enumerate()
                    .filter(|(_, c)| c[1] != 0)
                {
                    counts.insert(base + n as u64, u64::from(c[1]));
                }
            }
            base += cs / 2;
        }
    }
    assert_eq!(references, counts);
    assert!(references.keys().all(|c| c * cs < seal.file_len()));
    guest
}

#[test]
fn every_size_of_file_counts_its_own_metadata() {
    for bits in [16, 18, 21] {
        for data in [0, 30, 32_763, 32_764, 32_765, 32_766, 70_000] {
            let mut w = Writer::create(options(1 << 40, bits, false)).unwrap();
            if data > 0 {
                let plan = w.plan_write(index(3), data).unwrap();
                w.settle(plan, Outcome::Done).unwrap();
            }
            let seal = w.seal().unwrap();
            assert_eq!(audit(&w, &seal).len() as u64, data);
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write { first: u64, count: u64, done: bool },
    Zero { first: u64, count: u64 },
}

fn ops(clusters: u64) -> impl Strategy<Value = Vec<Op>> {
    // Near the table's edge and anywhere; a few long zeroes.
    let first = prop_oneof![0..clusters, 8180..8200_u64];
    let one = (first, 1..20_u64, 0..8_u8, 0..clusters);
    prop::collection::vec(
        one.prop_map(move |(first, count, kind, long)| {
            let fit = |n: u64| n.clamp(1, clusters - first);
            match kind {
                0..=4 => Op::Write {
                    first,
                    count: fit(count),
                    done: kind != 0,
                },
                5..=6 => Op::Zero {
                    first,
                    count: fit(count),
                },
                _ => Op::Zero {
                    first: 0,
                    count: long.max(1),
                },
            }
        }),
        1..60,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn like_an_array_of_slots(ops in ops(20_000), overlay: bool) {
        let size = 20_000 * 65536 - 100;
        let mut w = Writer::create(options(size, 16, overlay)).unwrap();
        let zero = if overlay { Slot::Zero } else { Slot::Unallocated };
        let mut model: BTreeMap<u64, Slot> = BTreeMap::new();
        let mut owner: BTreeMap<u64, u64> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Write { first, count, done } => {
                    let plan = w.plan_write(index(first), count).unwrap();
                    let mut at = first;
                    for run in &plan.runs {
                        prop_assert_eq!(run.first.get(), at);
                        for i in 0..run.count {
                            let host = run.host.get() + i * 65536;
                            prop_assert!(host < w.data_end().get());
                            prop_assert_eq!(*owner.entry(host).or_insert(at), at);
                            if done { model.insert(at, Slot::Data(HostOffset::new(host))); }
                            at += 1;
                        }
                    }
                    prop_assert_eq!(at, first + count);
                    w.settle(plan, if done { Outcome::Done } else { Outcome::Failed }).unwrap();
                }
                Op::Zero { first, count } => {
                    w.plan_zero(index(first), count).unwrap();
                    for c in first..first + count { model.insert(c, zero); }
                }
            }
        }
        model.retain(|_, s| *s != Slot::Unallocated);
        let seen: BTreeMap<u64, Slot> = (0..w.clusters())
            .map(|c| (c, w.slot(index(c))))
            .filter(|(_, s)| *s != Slot::Unallocated)
            .collect();
        prop_assert_eq!(&seen, &model);
        // The map says the same, in merged runs that cover the disk.
        let mut at = 0;
        let map = w.map(GuestRange::new(0, u64::MAX).unwrap(), usize::MAX);
        for m in &map {
            prop_assert_eq!(m.range.start().get(), at);
            for c in at / 65536..m.range.end().get().div_ceil(65536) {
                let slot = match m.target {
                    Target::Data { host } => Slot::Data(HostOffset::new(host.get() + c * 65536 - at)),
                    Target::Zero { .. } => Slot::Zero,
                    _ => Slot::Unallocated,
                };
                prop_assert_eq!(slot, w.slot(index(c)));
            }
            at = m.range.end().get();
        }
        prop_assert_eq!(at, size);
        prop_assert!(map.windows(2).all(|p| p[0].target != p[1].target));
        let counts = w.counts();
        let data = seen.values().filter(|s| matches!(s, Slot::Data(_))).count() as u64;
        prop_assert_eq!(counts.data_clusters, data);
        prop_assert_eq!(counts.zero_clusters, seen.len() as u64 - data);
        prop_assert_eq!(counts.unused_host_clusters, owner.len() as u64 - data);
        let seal = w.seal().unwrap();
        let guest: BTreeMap<u64, Slot> = audit(&w, &seal)
            .into_iter()
            .map(|(c, host)| (c, if host == 0 { Slot::Zero } else { Slot::Data(HostOffset::new(host)) }))
            .collect();
        prop_assert_eq!(guest, model);
    }
}
