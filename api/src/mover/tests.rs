//! Push and fetch against our own server with a disk in memory.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use sendense_nbd::HeapPool;
use sendense_nbd::memory::{MemExport, Single};
use sendense_nbd::serve::{ServeConfig, serve};
use tokio::task::{LocalSet, spawn_local};

use super::*;

/// A RAM disk named `disk` on a TCP port; its URI. It goes with the test's process.
pub(crate) fn ram_disk(size: u64) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let uri = format!("nbd://{}/disk", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let exports = Rc::new(Single::new("disk", MemExport::new(size)));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let exports = Rc::clone(&exports);
                spawn_local(async move {
                    let config = ServeConfig::default();
                    serve(stream, HeapPool::default(), &*exports, &config).await
                });
            }
        });
    });
    uri
}

/// A sparse file: 8 MiB and 513 bytes with data in three places, and zeroes that are stored.
pub(crate) fn sparse_file(path: &Path) -> u64 {
    let size = (8 << 20) + 513;
    let file = std::fs::File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&[7; 70_000], 1_000_001).unwrap();
    file.write_all_at(&vec![0; 1 << 20], 3 << 20).unwrap();
    file.write_all_at(&[8; 512], 4 << 20).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    size
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(work)
}

fn counter() -> (Arc<AtomicU64>, Progress) {
    let count = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&count);
    let progress: Progress = Arc::new(move |n| {
        shared.fetch_add(n, Ordering::Relaxed);
    });
    (count, progress)
}

fn push_of(path: &Path, uri: &str, ranges: Option<Vec<(u64, u64)>>) -> (Arc<AtomicU64>, Push) {
    let (count, progress) = counter();
    let push = Push {
        path: path.to_owned(),
        // The socket of another machine is passed over.
        uris: vec!["nbd+unix:///disk?socket=/no/such.sock".into(), uri.into()],
        ranges,
        connections: 2,
        progress,
    };
    (count, push)
}

fn fetch_to(path: &Path, uri: &str) -> (Arc<AtomicU64>, Fetch) {
    let (count, progress) = counter();
    let fetch = Fetch {
        uris: vec![uri.to_owned()],
        path: path.to_owned(),
        overwrite: false,
        connections: 2,
        progress,
    };
    (count, fetch)
}

#[test]
fn a_disk_goes_there_and_comes_back_thin() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let size = sparse_file(&from);
    let uri = ram_disk(size);
    let (sent, push_it) = push_of(&from, &uri, None);
    run(push(push_it)).unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), size);
    let (got, fetch_it) = fetch_to(&to, &uri);
    run(fetch(fetch_it)).unwrap();
    assert_eq!(got.load(Ordering::Relaxed), size);
    assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
    let stored = std::fs::metadata(&to).unwrap().blocks() * 512;
    assert!(stored <= 512 << 10, "{stored} bytes are stored");
}

#[test]
fn ranges_send_what_they_name_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let size = sparse_file(&from);
    let uri = ram_disk(size);
    let ranges = vec![(1_000_001, 1), (4 << 20, 1 << 20), (size - 2, 2)];
    let (sent, push_it) = push_of(&from, &uri, Some(ranges));
    run(push(push_it)).unwrap();
    assert_eq!(sent.load(Ordering::Relaxed), 3 + (1 << 20));
    run(fetch(fetch_to(&to, &uri).1)).unwrap();
    let mut expected = vec![0; usize::try_from(size).unwrap()];
    expected[1_000_001] = 7;
    expected[4 << 20..(4 << 20) + 512].fill(8);
    let end = expected.len();
    expected[end - 2..].copy_from_slice(b"nd");
    assert!(std::fs::read(&to).unwrap() == expected);
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let size = sparse_file(&from);
    let uri = ram_disk(size + 1);
    let e = run(push(push_of(&from, &uri, None).1)).unwrap_err();
    assert!(e.to_string().contains("was started for"), "{e}");
    let uri = ram_disk(size);
    let e = run(push(push_of(&from, &uri, Some(vec![(size, 1)])).1)).unwrap_err();
    assert!(e.to_string().contains("beyond the disk"), "{e}");
    let (_, nowhere) = push_of(&from, "nbd://127.0.0.1:1/disk", None);
    assert!(matches!(run(push(nowhere)).unwrap_err(), MoveError::Nbd(_)));
    let to = dir.path().join("to");
    let (_, nowhere) = fetch_to(&to, "nbd://127.0.0.1:1/disk");
    assert!(run(fetch(nowhere)).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
