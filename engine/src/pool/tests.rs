use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn pool() -> Arc<SharedPool> {
    SharedPool::new(&PoolConfig {
        slot_len: 1 << 20,
        receive_slots: 2,
        reply_slots: 1,
        internal_slots: 2,
        small_slots: 2,
        connection_quota: 1 << 20,
    })
}

async fn soon<T>(f: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_millis(20), f).await.ok()
}

#[test]
fn a_heap_buffer_is_aligned_zeroed_and_exactly_as_long_as_asked() {
    for len in [0, 1, 511, 4096, 4097, 3 << 20] {
        let mut buf = IoBuf::heap(len);
        assert_eq!(buf.len(), len);
        assert!(buf.as_ref().iter().all(|b| *b == 0));
        assert_eq!(buf.whole_mut().as_ptr().addr() % ALIGN, 0);
        assert_eq!(buf.capacity() % ALIGN, 0);
        assert!(buf.capacity() >= len);
    }
    let mut buf = IoBuf::copy_of(b"hello");
    buf.truncate(9);
    assert_eq!(buf.as_ref(), b"hello");
    buf.truncate(2);
    assert_eq!(buf.as_ref(), b"he");
}

#[tokio::test]
async fn every_slot_is_aligned_and_within_the_region() {
    let shared = pool();
    let (base, len) = shared.region();
    let connection = Pool::new(Arc::clone(&shared));
    for size in [1, 4096, SMALL_SLOT, SMALL_SLOT + 1, 1 << 20] {
        let mut buf = connection.take(size, Purpose::Receive).await;
        assert_eq!(buf.len(), size);
        let at = buf.whole_mut().as_ptr().addr();
        assert_eq!(at % ALIGN, 0);
        assert!(at >= base && at + buf.capacity() <= base + len);
    }
}

#[tokio::test]
async fn an_empty_reserve_waits_and_a_dropped_buffer_ends_the_wait() {
    let shared = pool();
    let one = Pool::new(Arc::clone(&shared));
    let two = Pool::new(Arc::clone(&shared));
    let three = Pool::new(Arc::clone(&shared));
    let a = one.take(1 << 20, Purpose::Receive).await;
    let _b = two.take(1 << 20, Purpose::Receive).await;
    assert!(soon(three.take(1 << 20, Purpose::Receive)).await.is_none());
    drop(a);
    assert!(soon(three.take(1 << 20, Purpose::Receive)).await.is_some());
}

#[tokio::test]
async fn a_reply_finds_a_slot_while_receiving_is_exhausted() {
    let shared = pool();
    let one = Pool::new(Arc::clone(&shared));
    let two = Pool::new(Arc::clone(&shared));
    let _a = one.take(1 << 20, Purpose::Receive).await;
    let _b = two.take(1 << 20, Purpose::Receive).await;
    assert!(soon(one.take(1 << 20, Purpose::Reply)).await.is_some());
    assert!(soon(shared.scratch(1 << 20)).await.is_some());
}

#[tokio::test]
async fn the_quota_of_one_connection_leaves_the_rest_to_others() {
    let shared = pool();
    let greedy = Pool::new(Arc::clone(&shared));
    let modest = Pool::new(Arc::clone(&shared));
    let _a = greedy.take(1 << 20, Purpose::Receive).await;
    let waiting = greedy.take(1 << 20, Purpose::Receive);
    tokio::pin!(waiting);
    assert!(soon(waiting.as_mut()).await.is_none());
    assert!(soon(modest.take(1 << 20, Purpose::Receive)).await.is_some());
}

#[tokio::test]
async fn waiting_is_first_come_first_served_and_a_cancelled_wait_loses_nothing() {
    let shared = pool();
    let held = shared.scratch(1 << 20).await;
    let also = shared.scratch(1 << 20).await;
    let mut first = Box::pin(shared.scratch(1 << 20));
    let mut second = Box::pin(shared.scratch(1 << 20));
    let mut third = Box::pin(shared.scratch(1 << 20));
    assert!(soon(first.as_mut()).await.is_none());
    assert!(soon(second.as_mut()).await.is_none());
    assert!(soon(third.as_mut()).await.is_none());
    drop(held);
    assert!(
        soon(third.as_mut()).await.is_none(),
        "the third overtook the first"
    );
    drop(first); // it had been given the slot and never took it
    let got = soon(second.as_mut()).await;
    assert!(got.is_some());
    drop(also);
    assert!(soon(third.as_mut()).await.is_some());
}

#[tokio::test]
async fn scratch_beyond_a_slot_occupies_the_reserve_but_is_always_served() {
    let shared = pool();
    let big = soon(shared.scratch(5 << 20)).await.unwrap();
    assert_eq!(big.len(), 5 << 20);
    assert!(soon(shared.scratch(1 << 20)).await.is_none());
    drop(big);
    assert!(soon(shared.scratch(1 << 20)).await.is_some());
}

#[tokio::test]
async fn a_buffer_may_be_dropped_on_another_thread_and_outlive_its_pool() {
    let shared = pool();
    let buf = shared.scratch(1 << 20).await;
    drop(shared);
    std::thread::spawn(move || drop(buf)).join().unwrap();
}
