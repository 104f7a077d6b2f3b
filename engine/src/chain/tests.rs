//! Chains of images that our own writer made, against a byte array.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of tests")]

use std::sync::Arc;

use proptest::prelude::*;
use sendense_formats::qcow2::{Backing, CreateOptions, Outcome, Writer};
use sendense_formats::{ClusterIndex, ClusterSize, GuestRange};

use super::*;
use crate::io::{Io, IoConfig};
use crate::pool::IoBuf;
use crate::storage::mem::MemDirectory;
use crate::storage::{Create, Directory, File};

const CLUSTER: u64 = 65536;

/// What a layer says about one cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Say {
    Nothing,
    Zero,
    Data(u8),
}

/// A file in memory with these bytes.
pub(crate) fn file(bytes: &[u8]) -> Arc<dyn File> {
    let file = MemDirectory::new().open("file", Create::New).unwrap();
    file.write_at_blocking(0, bytes).unwrap();
    file
}

fn fill(seed: u8, cluster: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| seed ^ (cluster as u8).wrapping_mul(31) ^ (i >> 8) as u8 | 1)
        .collect()
}

fn image(size: u64, overlay: bool, says: &[Say]) -> Arc<dyn File> {
    let mut writer = Writer::create(CreateOptions {
        virtual_size: size,
        cluster: ClusterSize::DEFAULT,
        backing: overlay.then(|| Backing {
            name: "parent.qcow2".into(),
            format: Some("qcow2".into()),
        }),
    })
    .unwrap();
    let file = file(&[]);
    for (i, say) in (0..size.div_ceil(CLUSTER)).zip(says) {
        match *say {
            Say::Nothing => {}
            Say::Zero => writer.plan_zero(ClusterIndex::new(i), 1).unwrap(),
            Say::Data(seed) => {
                let plan = writer.plan_write(ClusterIndex::new(i), 1).unwrap();
                let mut bytes = fill(seed, i, CLUSTER as usize);
                let there = (size - i * CLUSTER).min(CLUSTER) as usize;
                bytes[there..].fill(0);
                file.write_at_blocking(plan.runs[0].host.get(), &bytes)
                    .unwrap();
                writer.settle(plan, Outcome::Done).unwrap();
            }
        }
    }
    let seal = writer.seal().unwrap();
    for (at, bytes) in seal.metadata() {
        file.write_at_blocking(at.get(), &bytes).unwrap();
    }
    file.write_at_blocking(0, &seal.header()).unwrap();
    file.set_len(seal.file_len()).unwrap();
    file
}

/// The disk as QEMU reads it; `layers` newest first.
fn model(layers: &[(u64, Vec<Say>)]) -> Vec<u8> {
    let mut disk: Vec<u8> = Vec::new();
    for (size, says) in layers.iter().rev() {
        disk.resize(*size as usize, 0);
        for (i, say) in (0..size.div_ceil(CLUSTER)).zip(says) {
            let from = (i * CLUSTER) as usize;
            let to = (from + CLUSTER as usize).min(*size as usize);
            match *say {
                Say::Nothing => {}
                Say::Zero => disk[from..to].fill(0),
                Say::Data(seed) => {
                    disk[from..to].copy_from_slice(&fill(seed, i, CLUSTER as usize)[..to - from]);
                }
            }
        }
    }
    disk
}

fn open(layers: &[(u64, Vec<Say>)]) -> Arc<Chain> {
    let bottom = layers.len() - 1;
    let files = layers.iter().enumerate().map(|(i, (size, says))| {
        LayerSource::from(image(*size, i != bottom, says)).with_disk(*size)
    });
    Chain::open(files, ChainOptions::default()).unwrap()
}

fn all(chain: &Chain) -> Vec<u8> {
    let mut disk = vec![0xee; chain.size() as usize];
    chain.read_blocking(0, &mut disk).unwrap();
    disk
}

fn on_a_thread<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn behind_a_shorter_layer_the_disk_reads_zero_whatever_deeper_layers_hold() {
    let c = CLUSTER;
    let layers = [
        (6 * c, vec![Say::Nothing; 6]),
        (2 * c + 512, vec![Say::Nothing; 3]),
        (5 * c, vec![Say::Data(7); 5]),
    ];
    let chain = open(&layers);
    let disk = all(&chain);
    assert_eq!(disk, model(&layers));
    assert!(disk[..(2 * c + 512) as usize].iter().all(|b| *b != 0));
    assert!(disk[(2 * c + 512) as usize..].iter().all(|b| *b == 0));
    let pieces = chain.map(GuestRange::new(0, 6 * c).unwrap()).unwrap();
    assert_eq!(pieces.len(), 2);
    assert_eq!((pieces[0].depth, pieces[0].range.len()), (2, 2 * c + 512));
    assert_eq!(
        (pieces[1].depth, pieces[1].content),
        (0, Content::Unallocated { host: None })
    );
}

#[test]
fn a_chain_with_a_layer_left_out_does_not_open() {
    let top = image(CLUSTER, true, &[Say::Nothing]);
    let base = image(CLUSTER, false, &[Say::Data(1)]);
    let one = Chain::open([top.clone()], ChainOptions::default()).unwrap_err();
    assert!(
        one.to_string()
            .contains("needs its backing file `parent.qcow2`")
    );
    let swapped = Chain::open([base.clone(), top.clone()], ChainOptions::default());
    assert_eq!(swapped.unwrap_err().kind, ErrorKind::Invalid);
    let none: [Arc<dyn File>; 0] = [];
    assert_eq!(
        Chain::open(none, ChainOptions::default()).unwrap_err().kind,
        ErrorKind::Invalid
    );
    let alone = ChainOptions {
        ignore_backing: true,
        ..ChainOptions::default()
    };
    assert!(
        all(&Chain::open([top.clone()], alone).unwrap())
            .iter()
            .all(|b| *b == 0)
    );
    Chain::open([top, base], ChainOptions::default()).unwrap();
}

#[test]
fn a_raw_layer_is_a_bottom() {
    let top = image(3 * CLUSTER, true, &[Say::Nothing, Say::Zero, Say::Nothing]);
    let raw = file(&vec![9; 2 * CLUSTER as usize + 100]);
    let layers = [LayerSource::from(top), LayerSource::raw(raw, "base.raw")];
    let disk = all(&Chain::open(layers, ChainOptions::default()).unwrap());
    let mut expected = vec![9; disk.len()];
    expected[CLUSTER as usize..2 * CLUSTER as usize].fill(0);
    expected[2 * CLUSTER as usize + 100..].fill(0);
    assert_eq!(disk, expected);
}

#[test]
fn what_the_top_changed_is_named() {
    let layers = [
        (
            4 * CLUSTER,
            vec![Say::Nothing, Say::Zero, Say::Data(1), Say::Nothing],
        ),
        (4 * CLUSTER, vec![Say::Data(2); 4]),
    ];
    let chain = open(&layers);
    let changed = chain
        .changed_by_top(GuestRange::new(0, 4 * CLUSTER).unwrap())
        .unwrap();
    let flat: Vec<(u64, bool)> = changed
        .iter()
        .map(|(r, c)| (r.len() / CLUSTER, *c))
        .collect();
    assert_eq!(flat, [(1, false), (2, true), (1, false)]);
}

#[test]
fn a_wrong_checksum_is_damage_and_a_right_one_is_not() {
    #[derive(Debug)]
    struct Sums(Vec<u32>);
    impl Checksums for Sums {
        fn crc(&self, _depth: usize, cluster: u64) -> Option<u32> {
            self.0.get(cluster as usize).copied()
        }
    }
    let file = image(
        3 * CLUSTER,
        false,
        &[Say::Data(1), Say::Nothing, Say::Data(3)],
    );
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at_blocking(0, &mut bytes).unwrap();
    let sums: Vec<u32> = bytes
        .chunks(CLUSTER as usize)
        .map(crc32fast::hash)
        .collect();
    let with = |sums| ChainOptions {
        checksums: Some(Arc::new(Sums(sums))),
        ..ChainOptions::default()
    };
    let chain = Chain::open([file.clone()], with(sums.clone())).unwrap();
    let mut part = vec![0; 70000];
    chain
        .read_blocking(2 * CLUSTER - 1000, &mut part[..2000])
        .unwrap();
    assert_eq!(part[1000..2000], fill(3, 2, CLUSTER as usize)[..1000]);
    let mut damaged = sums.clone();
    damaged[2] ^= 1;
    let chain = Chain::open([file.clone()], with(damaged)).unwrap();
    chain.read_blocking(0, &mut part[..100]).unwrap();
    let e = chain
        .read_blocking(2 * CLUSTER + 5, &mut part[..1])
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Damaged);
    assert!(e.to_string().contains("host cluster 2 has CRC"));
    let chain = Chain::open([file], with(Vec::new())).unwrap();
    assert!(chain.read_blocking(0, &mut part[..1]).is_err());
}

#[test]
fn tasks_and_threads_read_the_same() {
    let layers = [
        (
            40 * CLUSTER + 77,
            (0..41)
                .map(|i| {
                    if i % 3 == 0 {
                        Say::Data(i)
                    } else {
                        Say::Nothing
                    }
                })
                .collect(),
        ),
        (
            38 * CLUSTER,
            (0..38)
                .map(|i| if i % 2 == 0 { Say::Data(99) } else { Say::Zero })
                .collect(),
        ),
    ];
    let (chain, disk) = (open(&layers), model(&layers));
    on_a_thread(async {
        let io = Io::new(IoConfig::small()).unwrap();
        for (at, len) in [(0, 1), (65530, 200_000), (40 * CLUSTER, 77), (5, 1 << 20)] {
            let (buf, result) = chain.read(&io, at, IoBuf::heap(len)).await;
            result.unwrap();
            assert!(
                buf.as_ref() == &disk[at as usize..at as usize + len],
                "{len} at {at}"
            );
        }
        let (_, past) = chain.read(&io, 40 * CLUSTER, IoBuf::heap(78)).await;
        assert_eq!(past.unwrap_err().kind, ErrorKind::Invalid);
    });
    assert!(chain.map_memory() > 0);
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        3 => Just(Say::Nothing),
        1 => Just(Say::Zero),
        2 => (1u8..=255).prop_map(Say::Data),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_chain_reads_as_the_model(
        layers in prop::collection::vec(
            (1u64..12 * CLUSTER, prop::collection::vec(say(), 12)), 1..5),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 4),
    ) {
        let (chain, disk) = (open(&layers), model(&layers));
        prop_assert!(all(&chain) == disk);
        for (a, b) in cuts {
            let at = a.index(disk.len());
            let len = b.index(disk.len() - at) + 1;
            let mut part = vec![0xee; len];
            chain.read_blocking(at as u64, &mut part).unwrap();
            prop_assert!(part == disk[at..at + len]);
        }
    }
}
