//! The small steps that happen per request, per cluster and per extent.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sendense_formats::changes::{ChangeList, Page, Pager, ParseLimits};
use sendense_formats::qcow2::{CreateOptions, Outcome, Writer};
use sendense_formats::{ClusterIndex, ClusterSize, GuestRange};
use sendense_nbd::wire::{self, ChunkHeader, Request, SimpleReply, chunk, cmd};
use sendense_nbd::{NbdUri, StatusExtent};

fn nbd(c: &mut Criterion) {
    let mut group = c.benchmark_group("nbd");
    let request = Request {
        flags: 0,
        command: cmd::WRITE,
        cookie: 77,
        offset: 1 << 40,
        len: 1 << 20,
    };
    for extended in [false, true] {
        let form = if extended { "extended" } else { "compact" };
        let mut out = Vec::with_capacity(64);
        group.bench_function(format!("request_encode_{form}"), |b| {
            b.iter(|| {
                out.clear();
                black_box(&request).encode(&mut out, extended);
                out.len()
            });
        });
        let mut bytes = Vec::new();
        request.encode(&mut bytes, extended);
        group.bench_function(format!("request_decode_{form}"), |b| {
            b.iter(|| Request::decode(black_box(&bytes), extended));
        });
        let extents = vec![
            StatusExtent {
                len: 65536,
                flags: 3
            };
            1024
        ];
        let payload = wire::status_payload(1, &extents, extended);
        group.bench_function(format!("status_1024_extents_{form}"), |b| {
            b.iter(|| wire::parse_status_payload(black_box(&payload), extended));
        });
    }
    let mut reply = Vec::new();
    SimpleReply {
        error: 0,
        cookie: 7,
    }
    .encode(&mut reply);
    group.bench_function("simple_reply_decode", |b| {
        b.iter(|| SimpleReply::decode(black_box(&reply)));
    });
    let mut header = Vec::new();
    let data = ChunkHeader {
        flags: chunk::FLAG_DONE,
        kind: chunk::OFFSET_DATA,
        cookie: 7,
        offset: 0,
        len: 1 << 20,
    };
    data.encode(&mut header, false);
    group.bench_function("chunk_header_decode", |b| {
        b.iter(|| ChunkHeader::decode(black_box(&header), false));
    });
    let text =
        "nbd+unix:///backup-vm-disk0-full-20251004T120000-abcdefghijklm?socket=/run/nbd.sock";
    group.bench_function("uri_parse", |b| {
        b.iter(|| black_box(text).parse::<NbdUri>());
    });
    group.finish();
}

fn changes(c: &mut Criterion) {
    const EXTENTS: u64 = 2000;
    let mut group = c.benchmark_group("changes");
    group.throughput(Throughput::Elements(EXTENTS));
    let pairs: Vec<(u64, u64)> = (0..EXTENTS).map(|n| (n << 20, 65536)).collect();
    let json = serde_json::json!(
        pairs
            .iter()
            .map(|(offset, length)| serde_json::json!({"offset": offset, "length": length}))
            .collect::<Vec<_>>()
    )
    .to_string();
    group.bench_function("parse_json_2000", |b| {
        b.iter(|| {
            ChangeList::parse_json(black_box(json.as_bytes()), 1 << 40, ParseLimits::default())
        });
    });
    group.bench_function("pager_2000", |b| {
        b.iter(|| {
            let mut pager = Pager::new(1 << 40);
            let given = pager.give(Page {
                start: 0,
                length: 1 << 40,
                extents: black_box(&pairs).clone(),
            });
            given.and_then(|()| pager.finish())
        });
    });
    let list: ChangeList = pairs
        .iter()
        .filter_map(|(at, len)| GuestRange::new(*at, *len))
        .collect();
    group.bench_function("align_out_2000", |b| {
        b.iter(|| black_box(&list).clone().align_out(1 << 18));
    });
    group.finish();
}

fn writer(c: &mut Criterion) {
    const CLUSTERS: u64 = 16384;
    let options = || CreateOptions {
        virtual_size: CLUSTERS << 16,
        cluster: ClusterSize::DEFAULT,
        backing: None,
    };
    let fill = |run: u64| {
        let mut writer = Writer::create(options()).ok()?;
        for first in (0..CLUSTERS).step_by(usize::try_from(run).ok()?) {
            let plan = writer.plan_write(ClusterIndex::new(first), run).ok()?;
            writer.settle(plan, Outcome::Done).ok()?;
        }
        Some(writer)
    };
    let mut group = c.benchmark_group("qcow2_writer");
    group.throughput(Throughput::Elements(CLUSTERS));
    for run in [1, 16] {
        group.bench_function(format!("plan_settle_1gib_runs_of_{run}"), |b| {
            b.iter(|| fill(black_box(run)));
        });
    }
    group.bench_function("seal_1gib_dense", |b| {
        b.iter_batched(
            || fill(16),
            |writer| {
                let seal = writer?.seal().ok()?;
                Some(seal.metadata().map(|(_, bytes)| bytes.len()).sum::<usize>())
            },
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, nbd, changes, writer);
criterion_main!(benches);
