#![expect(clippy::cast_possible_truncation, reason = "patterns of small numbers")]

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::pool::PoolConfig;

fn file() -> (Arc<OwnedFd>, File) {
    let file = tempfile::tempfile().unwrap();
    (Arc::new(OwnedFd::from(file.try_clone().unwrap())), file)
}

/// A ring of few entries, or `None` on a machine without.
fn ring(entries: u32) -> Option<(Uring, Arc<SharedPool>)> {
    let pool = SharedPool::new(&PoolConfig::small());
    Uring::start(entries, &pool, true)
        .ok()
        .map(|ring| (ring, pool))
}

fn part(at: u64, range: Range<usize>) -> Part {
    Part { at, range }
}

#[tokio::test]
async fn what_is_written_is_read_back_and_the_end_of_the_file_reads_as_zero() {
    let Some((ring, pool)) = ring(8) else { return };
    let (fd, file) = file();
    for buf in [IoBuf::heap(10_000), pool.scratch(10_000).await] {
        let mut buf = buf;
        buf.as_mut()
            .iter_mut()
            .enumerate()
            .for_each(|(i, b)| *b = (i % 251) as u8);
        let parts = vec![part(5, 0..7000), part(20_000, 7000..10_000)];
        let (mut buf, result) = ring.write(&fd, buf, parts, 1).await;
        result.unwrap();
        ring.sync(&fd).await.unwrap();
        assert_eq!(file.metadata().unwrap().len(), 23_000);
        buf.as_mut().fill(9);
        let (buf, result) = ring.read(&fd, buf, vec![part(19_998, 0..10_000)], 1).await;
        result.unwrap();
        let expect: Vec<u8> = [0, 0]
            .into_iter()
            .chain((7000..10_000_usize).map(|i| (i % 251) as u8))
            .chain(std::iter::repeat(0))
            .take(10_000)
            .collect();
        assert_eq!(buf.as_ref(), expect);
    }
}

#[tokio::test]
async fn more_parts_than_the_ring_holds_all_complete() {
    let Some((ring, _pool)) = ring(8) else { return };
    let (fd, file) = file();
    let mut buf = IoBuf::heap(500);
    buf.as_mut()
        .iter_mut()
        .enumerate()
        .for_each(|(i, b)| *b = (i % 251) as u8);
    let parts = (0..500).map(|i| part(499 - i as u64, i..i + 1)).collect();
    let (buf, result) = ring.write(&fd, buf, parts, 1).await;
    result.unwrap();
    let mut back = vec![0; 500];
    file.read_exact_at(&mut back, 0).unwrap();
    back.reverse();
    assert_eq!(back, buf.as_ref());
}

#[tokio::test]
async fn many_jobs_at_once_are_kept_apart() {
    let Some((ring, pool)) = ring(8) else { return };
    let (fd, file) = file();
    let jobs = (0..200_u8).map(|i| {
        let (ring, fd, pool) = (&ring, &fd, &pool);
        async move {
            let mut buf = pool.scratch(100).await;
            buf.as_mut().fill(i);
            ring.write(fd, buf, vec![part(u64::from(i) * 100, 0..100)], 1)
                .await
                .1
                .unwrap();
        }
    });
    futures_util::future::join_all(jobs).await;
    let mut back = vec![0; 20_000];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(
        back.chunks(100)
            .enumerate()
            .all(|(i, c)| c.iter().all(|b| usize::from(*b) == i))
    );
}

#[tokio::test]
async fn an_error_comes_back_with_the_buffer() {
    let Some((ring, _pool)) = ring(8) else { return };
    let read_only = Arc::new(OwnedFd::from(File::open("/proc/self/exe").unwrap()));
    let (buf, result) = ring
        .write(&read_only, IoBuf::copy_of(b"abc"), vec![part(0, 0..3)], 1)
        .await;
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(buf.as_ref(), b"abc");
    let (_, outside) = ring
        .write(&read_only, buf, vec![part(0, 4000..5000)], 1)
        .await;
    assert_eq!(outside.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let (_, nothing) = ring.write(&read_only, IoBuf::heap(1), vec![], 1).await;
    nothing.unwrap();
}

#[tokio::test]
async fn a_dropped_future_keeps_its_buffer_until_the_kernel_is_done() {
    let Some((ring, pool)) = ring(8) else { return };
    // A read from an empty pipe stays in the kernel for as long as we like.
    let (reader, mut writer) = io::pipe().unwrap();
    let pipe = Arc::new(OwnedFd::from(reader));
    let mut held = vec![pool.scratch(1 << 20).await];
    let last = pool.scratch(1 << 20).await;
    let mut read = Box::pin(ring.read(&pipe, last, vec![part(u64::MAX, 0..4)], 1));
    assert!(
        timeout(Duration::from_millis(20), read.as_mut())
            .await
            .is_err()
    );
    drop(read);
    let slot = timeout(Duration::from_millis(20), pool.scratch(1 << 20)).await;
    assert!(
        slot.is_err(),
        "the slot went back while the kernel could still write to it"
    );
    writer.write_all(b"late").unwrap();
    let slot = timeout(Duration::from_secs(5), pool.scratch(1 << 20)).await;
    held.push(slot.expect("the slot comes back by itself"));
}

#[test]
fn dropping_the_ring_waits_for_what_is_in_the_kernel() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        writer.write_all(b"late").unwrap();
        std::time::Instant::now()
    });
    runtime.block_on(async {
        let Some((ring, _pool)) = ring(8) else { return };
        let pipe = Arc::new(OwnedFd::from(reader));
        let buf = IoBuf::heap(4);
        let read = Box::pin(ring.read(&pipe, buf, vec![part(u64::MAX, 0..4)], 1));
        let _ = timeout(Duration::from_millis(10), read).await;
    });
    drop(runtime);
    let ended = std::time::Instant::now();
    assert!(ended + Duration::from_millis(20) >= late.join().unwrap());
}

#[tokio::test]
async fn a_ring_for_any_thread_works_as_well() {
    let pool = SharedPool::new(&PoolConfig::small());
    let Ok(ring) = Uring::start_with(&Handle::current(), 8, &pool, false, false) else {
        return;
    };
    assert!(!ring.registered());
    let (fd, file) = file();
    for i in 0..50 {
        let buf = IoBuf::copy_of(&[i]);
        ring.write(&fd, buf, vec![part(u64::from(i), 0..1)], 1)
            .await
            .1
            .unwrap();
    }
    assert_eq!(file.metadata().unwrap().len(), 50);
}
