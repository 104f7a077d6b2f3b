//! One disk as a byte array against everything that can happen to it, much of it at once.

use proptest::prelude::*;

use super::CLUSTER;
use super::rig::{Disk, Rig, block_on, pattern};

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
