//! One operation per cluster at a time: a lock over ranges of clusters, first come first served.
//!
//! A range is one entry however long it is, so zeroing a whole disk costs what zeroing a cluster
//! costs. A newcomer waits for every earlier entry that overlaps it, waiting ones included; so
//! nobody is overtaken, and since all clusters of a range are taken in one step, nobody deadlocks.
//! Reads share; everything else is alone. Wakers cross threads; no lock is held while waiting.
//!
//! Cost: one walk over the entries present, which the sessions' limit of operations in flight
//! bounds.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use super::lock;

/// Whether others may be in the same clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Reads.
    Shared,
    /// Everything that changes something.
    Alone,
}

#[derive(Debug)]
struct Entry {
    first: u64,
    /// Exclusive.
    end: u64,
    mode: Mode,
    /// Earlier entries that it waits for.
    blockers: usize,
    waker: Option<Waker>,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        self.first < other.end
            && other.first < self.end
            && (self.mode == Mode::Alone || other.mode == Mode::Alone)
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// By ticket: the order of arrival.
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

/// The gate of one export.
#[derive(Debug, Default)]
pub(super) struct Gate {
    queue: Mutex<Queue>,
}

/// The right to work in a range of clusters; ends when it is dropped.
#[derive(Debug)]
#[must_use = "the clusters are free again when it is dropped"]
pub(super) struct Turn<'a> {
    gate: &'a Gate,
    ticket: u64,
}

impl Gate {
    /// Waits for its turn in `count` clusters from `first` on. The place in the queue is taken
    /// when this is first polled; a dropped wait leaves it.
    pub(super) async fn enter(&self, first: u64, count: u64, mode: Mode) -> Turn<'_> {
        let turn = self.join(first, count, mode);
        poll_fn(|cx| {
            let mut queue = lock(&self.queue);
            match queue.entries.get_mut(&turn.ticket) {
                Some(entry) if entry.blockers > 0 => {
                    entry.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
        turn
    }

    fn join(&self, first: u64, count: u64, mode: Mode) -> Turn<'_> {
        let mut queue = lock(&self.queue);
        let mut entry = Entry {
            first,
            end: first.saturating_add(count),
            mode,
            blockers: 0,
            waker: None,
        };
        entry.blockers = queue
            .entries
            .values()
            .filter(|e| e.conflicts(&entry))
            .count();
        let ticket = queue.next;
        queue.next += 1;
        queue.entries.insert(ticket, entry);
        Turn { gate: self, ticket }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut wake = Vec::new();
        {
            let mut queue = lock(&self.gate.queue);
            let Some(gone) = queue.entries.remove(&self.ticket) else {
                return;
            };
            for (_, entry) in queue.entries.range_mut(self.ticket..) {
                if entry.conflicts(&gone) {
                    entry.blockers -= 1;
                    if entry.blockers == 0 {
                        wake.extend(entry.waker.take());
                    }
                }
            }
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Context;

    use super::*;

    fn poll<F: Future>(f: std::pin::Pin<&mut F>) -> Option<F::Output> {
        match f.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(v) => Some(v),
            Poll::Pending => None,
        }
    }

    #[test]
    fn nobody_is_overtaken() {
        let gate = Gate::default();
        let mut a = pin!(gate.enter(0, 4, Mode::Alone));
        let mut b = pin!(gate.enter(2, 10, Mode::Alone));
        let mut c = pin!(gate.enter(11, 1, Mode::Alone));
        let mut d = pin!(gate.enter(20, 1, Mode::Alone));
        let a = poll(a.as_mut()).unwrap();
        assert!(poll(b.as_mut()).is_none());
        // c is free of a, but came after b.
        assert!(poll(c.as_mut()).is_none());
        assert!(poll(d.as_mut()).is_some());
        drop(a);
        assert!(poll(c.as_mut()).is_none());
        let b = poll(b.as_mut()).unwrap();
        drop(b);
        assert!(poll(c.as_mut()).is_some());
    }

    #[test]
    fn readers_share_and_do_not_starve_writers() {
        let gate = Gate::default();
        let mut a = pin!(gate.enter(0, 1, Mode::Shared));
        let mut b = pin!(gate.enter(0, 1, Mode::Shared));
        let mut w = pin!(gate.enter(0, u64::MAX, Mode::Alone));
        let mut late = pin!(gate.enter(0, 1, Mode::Shared));
        let a = poll(a.as_mut()).unwrap();
        let b = poll(b.as_mut()).unwrap();
        assert!(poll(w.as_mut()).is_none());
        assert!(poll(late.as_mut()).is_none());
        drop(a);
        drop(b);
        let w = poll(w.as_mut()).unwrap();
        assert!(poll(late.as_mut()).is_none());
        drop(w);
        assert!(poll(late.as_mut()).is_some());
    }

    #[test]
    fn a_dropped_wait_blocks_nobody() {
        let gate = Gate::default();
        let mut a = pin!(gate.enter(0, 1, Mode::Alone));
        let a = poll(a.as_mut()).unwrap();
        {
            let mut b = pin!(gate.enter(0, 5, Mode::Alone));
            assert!(poll(b.as_mut()).is_none());
        }
        let mut c = pin!(gate.enter(4, 1, Mode::Alone));
        assert!(poll(c.as_mut()).is_some());
        drop(a);
        assert!(lock(&gate.queue).entries.is_empty());
    }

    #[test]
    fn turns_pass_between_threads() {
        let gate = Arc::new(Gate::default());
        let inside: Arc<[AtomicU64; 4]> = Arc::default();
        let threads: Vec<_> = (0..4)
            .map(|t: u64| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let rt = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    rt.block_on(async {
                        for i in 0..200 {
                            let first = (i + t) % 3;
                            let turn = gate.enter(first, 2, Mode::Alone).await;
                            let mine = &inside[usize::try_from(first).unwrap()..][..2];
                            assert!(mine.iter().all(|c| c.fetch_add(1, Ordering::SeqCst) == 0));
                            tokio::task::yield_now().await;
                            for cluster in mine {
                                cluster.fetch_sub(1, Ordering::SeqCst);
                            }
                            drop(turn);
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(lock(&gate.queue).entries.is_empty());
    }
}
