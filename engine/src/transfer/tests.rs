//! Copies and comparisons between files in memory, against byte arrays.

use std::sync::Arc;

use proptest::prelude::*;
use sendense_formats::GuestRange;

use super::*;
use crate::chain::tests::file;
use crate::io::{Io, IoConfig};
use crate::storage::File;
use crate::{ErrorKind, Result};

fn on_a_thread<F: Future>(work: impl FnOnce(Io) -> F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { work(Io::new(IoConfig::small()).unwrap()).await })
}

fn content(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at_blocking(0, &mut bytes).unwrap();
    bytes
}

fn reader(bytes: &[u8]) -> FileReader {
    FileReader::new(file(bytes), bytes.len() as u64, "source")
}

fn small() -> CopyOptions {
    CopyOptions {
        parallel: 3,
        block: 16384,
        find_zeroes: Some(4096),
        compare_unit: 4096,
        ranges: None,
    }
}

/// Runs of zero and of data.
fn disk() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec((any::<bool>(), 1usize..9000), 1..12).prop_map(|runs| {
        let mut bytes = Vec::new();
        for (i, (zero, len)) in runs.into_iter().enumerate() {
            let value = if zero {
                0
            } else {
                u8::try_from(i + 1).unwrap()
            };
            bytes.resize(bytes.len() + len, value);
        }
        bytes
    })
}

fn difference(a: &[u8], b: &[u8]) -> Option<u64> {
    let byte = |d: &[u8], i| d.get(i).copied().unwrap_or(0);
    (0..a.len().max(b.len()))
        .find(|i| byte(a, *i) != byte(b, *i))
        .map(|i| i as u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_copy_is_the_disk_whatever_was_there(source in disk(), old in disk(), fresh: bool) {
        let target = if fresh { file(&[]) } else {
            let mut old = old;
            old.resize(old.len().max(source.len()), 9);
            file(&old)
        };
        let tail = content(&target).get(source.len()..).unwrap_or(&[]).to_vec();
        let progress = Progress::new();
        let copied = on_a_thread(|io| {
            let (target, progress) = (target.clone(), progress.clone());
            let source = source.clone();
            async move {
                let size = source.len() as u64;
                let sink = if fresh {
                    FileSink::fresh(target, size, "target")?
                } else {
                    FileSink::over(target, size, "target")?
                };
                copy(&io, &reader(&source), None, &sink, &small(), &progress).await
            }
        }).unwrap();
        let after = content(&target);
        prop_assert!(after[..source.len()] == source);
        prop_assert!(after[source.len()..] == tail);
        prop_assert_eq!(copied.written + copied.zero, source.len() as u64);
        let p = progress.snapshot();
        prop_assert_eq!((p.total, p.done), (source.len() as u64, source.len() as u64));
    }

    #[test]
    fn only_differences_are_written_over_a_base(source in disk(), base in disk()) {
        let mut old = base.clone();
        old.resize(source.len(), 0);
        let target = file(&old);
        let copied = on_a_thread(|io| {
            let (source, target, base) = (source.clone(), target.clone(), base.clone());
            async move {
                let sink = FileSink::over(target, source.len() as u64, "target")?;
                let base = reader(&base);
                let progress = Progress::new();
                copy(&io, &reader(&source), Some(&base), &sink, &small(), &progress).await
            }
        }).unwrap();
        prop_assert!(content(&target) == source);
        let same: usize = (0..source.len())
            .step_by(4096)
            .map(|i| i..(i + 4096).min(source.len()))
            .filter(|r| source[r.clone()] == old[r.clone()])
            .map(|r| r.len())
            .sum();
        prop_assert_eq!(copied.same, same as u64);
    }

    #[test]
    fn comparing_finds_the_first_difference(a in disk(), b in disk(), equal: bool) {
        let b = if equal { a.clone() } else { b };
        let found: Result<Comparison> = on_a_thread(|io| {
            let (a, b) = (a.clone(), b.clone());
            async move { compare(&io, &reader(&a), &reader(&b), &Progress::new()).await }
        });
        let found = found.unwrap();
        prop_assert_eq!(found.first_difference, difference(&a, &b));
        prop_assert_eq!(found.identical(), a == b);
    }
}

#[test]
fn only_the_wanted_ranges_are_copied() {
    let target = file(&[1; 100_000]);
    let range = |at, len| GuestRange::new(at, len).unwrap();
    let options = CopyOptions {
        ranges: Some(vec![range(10, 5), range(50_000, 40_000)]),
        ..small()
    };
    on_a_thread(|io| {
        let target = target.clone();
        async move {
            let sink = FileSink::over(target, 100_000, "target").unwrap();
            let source = reader(&[2; 100_000]);
            let progress = Progress::new();
            copy(&io, &source, None, &sink, &options, &progress)
                .await
                .unwrap();
            assert_eq!(progress.snapshot().done, 40_005);
            let outside = CopyOptions {
                ranges: Some(vec![range(99_999, 2)]),
                ..small()
            };
            let e = copy(&io, &source, None, &sink, &outside, &progress)
                .await
                .unwrap_err();
            assert_eq!(e.kind, ErrorKind::Invalid);
        }
    });
    let after = content(&target);
    assert_eq!(after.iter().filter(|b| **b == 2).count(), 40_005);
    assert_eq!((after[9], after[10], after[14], after[15]), (1, 2, 2, 1));
}

#[test]
fn a_cancelled_copy_stops_and_says_so() {
    on_a_thread(|io| async move {
        let sink = FileSink::fresh(file(&[]), 100_000, "target").unwrap();
        let progress = Progress::new();
        progress.cancel();
        let e = copy(
            &io,
            &reader(&[1; 100_000]),
            None,
            &sink,
            &small(),
            &progress,
        )
        .await;
        assert_eq!(e.unwrap_err().kind, ErrorKind::WrongState);
    });
}

#[test]
fn nothing_is_overwritten_unasked_and_a_small_target_is_refused() {
    let e = FileSink::fresh(file(&[1]), 10, "t").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Exists);
    let e = FileSink::over(file(&[1]), 10, "t").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid);
}
