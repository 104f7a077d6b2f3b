//! The accumulator: clusters of which only a part was sent, held in memory until they are full.
//!
//! Memory is bounded by the number of held clusters; who wants to hold one more when there is no
//! room makes room first, by writing out the one that was touched longest ago.
//!
//! Invariants: an entry's bytes are touched only by who has the cluster's turn at the gate. An
//! entry stays here until its bytes are in the file and settled, so whoever finds no entry knows
//! that nothing is under way (a flush relies on it).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::intervals::Intervals;
use super::lock;
use crate::pool::IoBuf;

/// Separate known ranges in one cluster; with more it is filled and written out at once.
const MAX_INTERVALS: usize = 256;

/// A cluster in part.
#[derive(Debug)]
pub(super) struct Partial {
    /// One cluster; what is not known is zero.
    pub(super) buf: IoBuf,
    pub(super) known: Intervals,
}

pub(super) type Cell = Arc<Mutex<Partial>>;

/// What goes into a cluster.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Bytes(&'a [u8]),
    Zeros(usize),
}

impl Source<'_> {
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Zeros(len) => *len,
        }
    }
}

impl Partial {
    /// Takes bytes in; tells whether the cluster should leave now: all of its first `need` bytes
    /// are known, or too many pieces of it.
    pub(super) fn put(&mut self, at: usize, source: Source<'_>, need: usize) -> bool {
        let range = at..at.saturating_add(source.len());
        if let Some(to) = self.buf.as_mut().get_mut(range.clone()) {
            match source {
                Source::Bytes(bytes) => to.copy_from_slice(bytes),
                Source::Zeros(_) => to.fill(0),
            }
            self.known.insert(range);
        }
        self.known.covers(need) || self.known.len() > MAX_INTERVALS
    }

    /// Copies what is known of `at ..` over `to`.
    pub(super) fn copy_to(&self, at: usize, to: &mut [u8]) {
        let window = at..at.saturating_add(to.len());
        for known in self.known.iter() {
            let part = known.start.max(window.start)..known.end.min(window.end);
            if part.start < part.end {
                let dest = to.get_mut(part.start - at..part.end - at);
                if let (Some(dest), Some(from)) = (dest, self.buf.as_ref().get(part)) {
                    dest.copy_from_slice(from);
                }
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    cell: Cell,
    touched: u64,
    /// Somebody is on the way to write it out.
    leaving: bool,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<u64, Entry>,
    /// Oldest touch first.
    order: BTreeMap<u64, u64>,
    reserved: usize,
    clock: u64,
}

/// The held clusters of one export.
#[derive(Debug)]
pub(super) struct Held {
    inner: Mutex<Inner>,
    /// Something came or went.
    pub(super) changed: Notify,
    capacity: usize,
    cluster: usize,
}

/// Room for one more cluster.
#[derive(Debug)]
pub(super) struct Reservation<'a>(&'a Held);

/// The promise to write out a cluster soon; taken back when it is dropped.
#[derive(Debug)]
pub(super) struct Victim<'a> {
    held: &'a Held,
    pub(super) cluster: u64,
}

/// The answer to a wish to hold a cluster.
#[derive(Debug)]
pub(super) enum Room<'a> {
    /// It is held already.
    Held,
    /// There is room.
    Free(Reservation<'a>),
    /// There is none until this one has left.
    Evict(Victim<'a>),
    /// There is none until something changes.
    Wait,
}

impl Held {
    /// Room for `bytes`, but for two clusters at least.
    pub(super) fn new(bytes: u64, cluster: usize) -> Self {
        let clusters = usize::try_from(bytes).unwrap_or(usize::MAX) / cluster;
        Self {
            inner: Mutex::new(Inner::default()),
            changed: Notify::new(),
            capacity: clusters.max(2),
            cluster,
        }
    }

    /// Asks for room to hold a cluster. The caller holds no turn at the gate.
    pub(super) fn room(&self, cluster: u64) -> Room<'_> {
        let mut inner = lock(&self.inner);
        if inner.entries.contains_key(&cluster) {
            return Room::Held;
        }
        if inner.entries.len() + inner.reserved < self.capacity {
            inner.reserved += 1;
            return Room::Free(Reservation(self));
        }
        let Inner { entries, order, .. } = &mut *inner;
        for cluster in order.values() {
            if let Some(entry) = entries.get_mut(cluster).filter(|e| !e.leaving) {
                entry.leaving = true;
                return Room::Evict(Victim {
                    held: self,
                    cluster: *cluster,
                });
            }
        }
        Room::Wait
    }

    /// The entry, made anew where there is a reservation; with the cluster's turn.
    pub(super) fn open(&self, cluster: u64, room: Option<Reservation<'_>>) -> Option<Cell> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.clock += 1;
        let now = inner.clock;
        let found = match inner.entries.get_mut(&cluster) {
            Some(entry) => {
                inner.order.remove(&entry.touched);
                entry.touched = now;
                Some(Arc::clone(&entry.cell))
            }
            None => room.is_some().then(|| {
                let cell = Arc::new(Mutex::new(Partial {
                    buf: IoBuf::heap(self.cluster),
                    known: Intervals::default(),
                }));
                let entry = Entry {
                    cell: Arc::clone(&cell),
                    touched: now,
                    leaving: false,
                };
                inner.entries.insert(cluster, entry);
                cell
            }),
        };
        if found.is_some() {
            inner.order.insert(now, cluster);
        }
        if let Some(room) = room {
            // The entry counts from here on, or there was one and the room is free again.
            inner.reserved -= 1;
            std::mem::forget(room);
            self.changed.notify_waiters();
        }
        found
    }

    /// The entry of a cluster, with its turn.
    pub(super) fn get(&self, cluster: u64) -> Option<Cell> {
        let inner = lock(&self.inner);
        inner.entries.get(&cluster).map(|e| Arc::clone(&e.cell))
    }

    /// Lets entries go, with their turn.
    pub(super) fn remove(&self, clusters: Range<u64>) {
        let mut inner = lock(&self.inner);
        if inner.entries.is_empty() {
            return;
        }
        let inner = &mut *inner;
        let before = inner.entries.len();
        let order = &mut inner.order;
        if clusters.end - clusters.start <= 64 {
            for cluster in clusters {
                if let Some(entry) = inner.entries.remove(&cluster) {
                    order.remove(&entry.touched);
                }
            }
        } else {
            inner.entries.retain(|cluster, entry| {
                let goes = clusters.contains(cluster);
                if goes {
                    order.remove(&entry.touched);
                }
                !goes
            });
        }
        if inner.entries.len() < before {
            self.changed.notify_waiters();
        }
    }

    /// The held clusters among these, sorted.
    pub(super) fn among(&self, clusters: Range<u64>) -> Vec<u64> {
        let inner = lock(&self.inner);
        let mut found: Vec<u64> = inner
            .entries
            .keys()
            .copied()
            .filter(|c| clusters.contains(c))
            .collect();
        found.sort_unstable();
        found
    }

    /// Bytes of memory that are held.
    pub(super) fn bytes(&self) -> u64 {
        (lock(&self.inner).entries.len() as u64) * (self.cluster as u64)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(&self.0.inner).reserved -= 1;
        self.0.changed.notify_waiters();
    }
}

impl Drop for Victim<'_> {
    fn drop(&mut self) {
        let mut inner = lock(&self.held.inner);
        if let Some(entry) = inner.entries.get_mut(&self.cluster) {
            entry.leaving = false;
        }
        drop(inner);
        self.held.changed.notify_waiters();
    }
}
