//! Pulling from files and over NBD into real ingests, in memory.

use std::sync::Arc;

use sendense_formats::qcow2::{Backing, CreateOptions};
use sendense_formats::{ClusterSize, GuestRange};

use super::*;
use crate::chain::tests::file;
use crate::chain::{ChainOptions, LayerSource};
use crate::ingest::{CoverageRule, Ingest, IngestOptions};
use crate::io::IoConfig;

const SIZE: usize = 1_000_000;

fn disk(seed: u8) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..SIZE).map(|i| i.to_le_bytes()[1] ^ seed | 1).collect();
    disk[200_000..500_000].fill(0);
    disk
}

fn on_a_thread<F: Future>(work: impl FnOnce(Io) -> F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { work(Io::new(IoConfig::small()).unwrap()).await })
}

fn target(parent: Option<Arc<Chain>>, coverage: CoverageRule) -> (Arc<dyn File>, Arc<Ingest>) {
    let new = file(&[]);
    let create = CreateOptions {
        virtual_size: SIZE as u64,
        cluster: ClusterSize::DEFAULT,
        backing: parent.is_some().then(|| Backing {
            name: "parent".into(),
            format: Some("qcow2".into()),
        }),
    };
    let options = IngestOptions {
        parent: parent.map(|p| Arc::new(p) as Arc<dyn crate::ingest::Parent>),
        coverage,
        ..IngestOptions::new(new.clone(), create)
    };
    (new, Ingest::create(options).unwrap())
}

async fn source(bytes: &[u8]) -> OpenSource {
    let source = PullSource::File {
        file: file(bytes),
        name: "source".into(),
    };
    OpenSource::open(source).await.unwrap()
}

#[test]
fn a_container_is_told_from_a_disk() {
    on_a_thread(|io| async move {
        let told = async |bytes: &[u8]| source(bytes).await.container(&io).await.unwrap();
        assert_eq!(told(&disk(1)).await, None);
        assert_eq!(told(b"").await, None);
        assert_eq!(told(b"QFI\xfb").await, Some("QCOW2"));
        // A fixed VHD is the disk and one sector more.
        let mut vhd = disk(1);
        vhd.extend_from_slice(b"conectix");
        vhd.resize(SIZE + 512, 0);
        assert_eq!(told(&vhd).await, Some("VHD"));
    });
}

fn content(chain: &Chain) -> Vec<u8> {
    let mut bytes = vec![9; SIZE];
    chain.read_blocking(0, &mut bytes).unwrap();
    bytes
}

/// A full of `disk(1)`.
async fn full(io: &Io) -> (Arc<dyn File>, Arc<Chain>) {
    let (file, ingest) = target(None, CoverageRule::Whole);
    let progress = Progress::new();
    let from = source(&disk(1)).await;
    pull(io, &from, &*ingest, &PullMode::Full, &progress)
        .await
        .unwrap();
    ingest.freeze().await.unwrap();
    ingest.prepare(io).await.unwrap();
    assert_eq!(progress.snapshot().done, SIZE as u64);
    let layer = LayerSource::qcow2(file.clone(), "full");
    (file, Chain::open([layer], ChainOptions::default()).unwrap())
}

async fn overlay(
    io: &Io,
    base: &(Arc<dyn File>, Arc<Chain>),
    mode: PullMode,
    coverage: CoverageRule,
    now: &[u8],
) -> (Arc<Chain>, Copied) {
    let (file, ingest) = target(Some(base.1.clone()), coverage);
    let from = source(now).await;
    let copied = pull(io, &from, &*ingest, &mode, &Progress::new())
        .await
        .unwrap();
    ingest.freeze().await.unwrap();
    ingest.prepare(io).await.unwrap();
    let layers = [
        LayerSource::qcow2(file, "incremental"),
        LayerSource::qcow2(base.0.clone(), "full"),
    ];
    (
        Chain::open(layers, ChainOptions::default()).unwrap(),
        copied,
    )
}

#[test]
fn a_full_and_its_incrementals_are_the_disk() {
    on_a_thread(|io| async move {
        let base = full(&io).await;
        assert!(content(&base.1) == disk(1));

        let mut now = disk(1);
        now[600_000..600_005].fill(0xaa);
        now[100_000..180_000].fill(0);
        let range = |at, len| GuestRange::new(at, len).unwrap();
        let changes = ChangeList::from_unsorted([range(599_040, 1_024), range(99_840, 80_384)]);
        let coverage = CoverageRule::Declared(changes.clone());
        let mode = PullMode::Changes(changes);
        let (chain, _) = overlay(&io, &base, mode, coverage, &now).await;
        assert!(content(&chain) == now);

        let mode = PullMode::CompareWith(base.1.clone());
        let (chain, copied) = overlay(&io, &base, mode, CoverageRule::Free, &now).await;
        assert!(content(&chain) == now);
        // Two units of 64 KiB hold the five bytes and the edges of the zeroes; one is all zero.
        assert!(copied.written + copied.zero <= 4 * 65536, "{copied:?}");
        assert_eq!(copied.written + copied.zero + copied.same, SIZE as u64);
    });
}

#[test]
fn a_source_of_another_size_is_refused_before_anything_is_sent() {
    on_a_thread(|io| async move {
        let (_, ingest) = target(None, CoverageRule::Whole);
        let from = source(&disk(1)[..SIZE - 1]).await;
        let e = pull(&io, &from, &*ingest, &PullMode::Full, &Progress::new()).await;
        assert_eq!(e.unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(ingest.progress().transferred, 0);
    });
}

#[test]
fn a_source_that_shrinks_or_grows_while_it_is_read_fails_the_pull() {
    on_a_thread(|io| async move {
        let changed = ChangeList::from_unsorted([GuestRange::new(0, 512).unwrap()]);
        for now in [100, 400_000, SIZE as u64 + 1] {
            for mode in [PullMode::Full, PullMode::Changes(changed.clone())] {
                let (_, ingest) = target(None, CoverageRule::Free);
                let bytes = file(&disk(1));
                let from = PullSource::File {
                    file: bytes.clone(),
                    name: "source".into(),
                };
                let from = OpenSource::open(from).await.unwrap();
                bytes.set_len(now).unwrap();
                let e = pull(&io, &from, &*ingest, &mode, &Progress::new()).await;
                let e = e.unwrap_err();
                assert_eq!(e.kind, ErrorKind::SourceChanged, "{now}: {e}");
                let said = e.to_string();
                assert!(said.contains(&now.to_string()), "{said}");
                assert!(said.contains(&SIZE.to_string()), "{said}");
            }
        }
    });
}

#[test]
fn a_read_behind_the_new_end_of_a_source_fails_at_once() {
    on_a_thread(|io| async move {
        let bytes = file(&disk(1));
        let reader = FileReader::new(bytes.clone(), SIZE as u64, "source");
        bytes.set_len(600_000).unwrap();
        let read = |at| reader.read(&io, at, IoBuf::heap(1000));
        read(599_000).await.1.unwrap();
        let e = read(599_001).await.1.unwrap_err();
        assert_eq!(e.kind, ErrorKind::SourceChanged, "{e}");
        let range = |at, len| GuestRange::new(at, len).unwrap();
        assert!(reader.spans(range(0, 600_000)).await.is_ok());
        // A cut file has no data there: that is no hole of the disk.
        let e = reader.spans(range(500_000, 500_000)).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::SourceChanged, "{e}");
    });
}
