//! The lazily built map: one region of the disk at a time, the least recently used dropped.
//!
//! Invariant: a region is built by one thread at a time, whoever else wants it waits for that one;
//! a build that fails (or panics) wakes them with the error and leaves no trace, so that the next
//! one tries again.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::Notify;

use super::piece::Piece;
use crate::{Error, ErrorKind, Result};

/// The pieces of one region, in guest order, without gaps.
pub(super) type Region = Arc<[Piece]>;

/// A region that is being built.
#[derive(Default)]
pub(super) struct Flight {
    outcome: Mutex<Option<Result<Region, (ErrorKind, String)>>>,
    done: Condvar,
    notify: Notify,
}

impl fmt::Debug for Flight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

impl Flight {
    fn outcome(&self) -> Option<Result<Region>> {
        let outcome = lock(&self.outcome);
        outcome.as_ref().map(|o| match o {
            Ok(region) => Ok(region.clone()),
            Err((kind, at)) => Err(Error::new(kind.clone(), at.clone())),
        })
    }

    /// Waits on this thread.
    pub(super) fn wait(&self) -> Result<Region> {
        let mut outcome = lock(&self.outcome);
        while outcome.is_none() {
            outcome = self
                .done
                .wait(outcome)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(outcome);
        self.outcome().unwrap_or_else(|| Err(interrupted()))
    }

    /// Waits in a task.
    pub(super) async fn wait_async(&self) -> Result<Region> {
        loop {
            let notified = self.notify.notified();
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
            notified.await;
        }
    }

    fn settle(&self, result: Result<Region, (ErrorKind, String)>) {
        *lock(&self.outcome) = Some(result);
        self.done.notify_all();
        self.notify.notify_waiters();
    }
}

/// What a look into the cache gives.
#[derive(Debug)]
pub(super) enum Lookup {
    /// It is there.
    Hit(Region),
    /// Somebody is building it.
    Wait(Arc<Flight>),
    /// The caller builds it, and settles the ticket.
    Build(Ticket),
}

struct Inner {
    regions: LruCache<u64, Region>,
    bytes: usize,
    flights: HashMap<u64, Arc<Flight>>,
}

/// The cache; shared by all readers of a chain.
pub(super) struct Cache {
    inner: Mutex<Inner>,
    limit: usize,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Cache {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                regions: LruCache::unbounded(),
                bytes: 0,
                flights: HashMap::new(),
            }),
            limit,
        })
    }

    pub(super) fn look(self: &Arc<Self>, index: u64) -> Lookup {
        let mut inner = lock(&self.inner);
        if let Some(region) = inner.regions.get(&index) {
            return Lookup::Hit(region.clone());
        }
        if let Some(flight) = inner.flights.get(&index) {
            return Lookup::Wait(flight.clone());
        }
        let flight = Arc::new(Flight::default());
        inner.flights.insert(index, flight.clone());
        Lookup::Build(Ticket {
            cache: self.clone(),
            index,
            flight,
            settled: false,
        })
    }

    /// Bytes that the regions hold.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.inner).bytes
    }

    fn settle(&self, index: u64, region: Option<Region>) {
        let mut inner = lock(&self.inner);
        inner.flights.remove(&index);
        let Some(region) = region else {
            return;
        };
        inner.bytes += cost(&region);
        if let Some(old) = inner.regions.put(index, region) {
            inner.bytes = inner.bytes.saturating_sub(cost(&old));
        }
        // The newest stays even where it alone is over the limit: somebody needs it now.
        while inner.bytes > self.limit && inner.regions.len() > 1 {
            let Some((_, old)) = inner.regions.pop_lru() else {
                break;
            };
            inner.bytes = inner.bytes.saturating_sub(cost(&old));
        }
    }
}

/// The duty to build one region.
#[derive(Debug)]
pub(super) struct Ticket {
    cache: Arc<Cache>,
    index: u64,
    flight: Arc<Flight>,
    settled: bool,
}

impl Ticket {
    /// The flight that others wait for.
    pub(super) fn flight(&self) -> Arc<Flight> {
        self.flight.clone()
    }

    /// Hands the result to the cache and to all that wait.
    pub(super) fn settle(mut self, result: Result<Vec<Piece>>) -> Result<Region> {
        self.settled = true;
        match result {
            Ok(pieces) => {
                let region: Region = pieces.into();
                self.cache.settle(self.index, Some(region.clone()));
                self.flight.settle(Ok(region.clone()));
                Ok(region)
            }
            Err(e) => {
                self.cache.settle(self.index, None);
                self.flight.settle(Err((e.kind.clone(), e.to_string())));
                Err(e)
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.cache.settle(self.index, None);
            let e = interrupted();
            self.flight.settle(Err((e.kind, e.at)));
        }
    }
}

fn interrupted() -> Error {
    Error::new(
        ErrorKind::Io,
        "reading the map of the image was interrupted",
    )
}

fn cost(region: &Region) -> usize {
    size_of_val::<[Piece]>(region) + 128
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every update is a single assignment or goes on consistently after a panic elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use sendense_formats::GuestRange;

    use super::super::piece::Content;
    use super::*;

    fn pieces(n: u64) -> Vec<Piece> {
        (0..n)
            .map(|i| Piece {
                range: GuestRange::new(i, 1).unwrap(),
                depth: 0,
                content: Content::Unallocated { host: None },
            })
            .collect()
    }

    fn build(cache: &Arc<Cache>, index: u64, n: u64) {
        match cache.look(index) {
            Lookup::Build(ticket) => drop(ticket.settle(Ok(pieces(n))).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn memory_stays_below_the_limit_and_the_last_used_stays() {
        let cache = Cache::new(100 * size_of::<Piece>());
        for i in 0..10 {
            build(&cache, i, 30);
            assert!(cache.bytes() <= 100 * size_of::<Piece>());
            let _ = cache.look(0);
        }
        assert!(matches!(cache.look(0), Lookup::Hit(_)));
        assert!(matches!(cache.look(1), Lookup::Build(_)));
        build(&cache, 50, 1000);
        assert!(matches!(cache.look(50), Lookup::Hit(_)));
    }

    #[test]
    fn one_builds_and_the_others_wait() {
        let cache = Cache::new(1 << 20);
        let Lookup::Build(ticket) = cache.look(7) else {
            panic!("nobody built it before");
        };
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let Lookup::Wait(flight) = cache.look(7) else {
                    panic!("it is in flight");
                };
                std::thread::spawn(move || flight.wait().unwrap().len())
            })
            .collect();
        ticket.settle(Ok(pieces(3))).unwrap();
        for w in waiters {
            assert_eq!(w.join().unwrap(), 3);
        }
    }

    #[test]
    fn a_failed_or_dropped_build_is_told_and_tried_again() {
        let cache = Cache::new(1 << 20);
        for fail in [true, false] {
            let Lookup::Build(ticket) = cache.look(1) else {
                panic!("free");
            };
            let flight = ticket.flight();
            if fail {
                let e = Error::new(ErrorKind::Damaged, "bad table");
                ticket.settle(Err(e)).unwrap_err();
                assert_eq!(flight.wait().unwrap_err().kind, ErrorKind::Damaged);
            } else {
                drop(ticket);
                assert_eq!(flight.wait().unwrap_err().kind, ErrorKind::Io);
            }
        }
        assert!(matches!(cache.look(1), Lookup::Build(_)));
    }
}
