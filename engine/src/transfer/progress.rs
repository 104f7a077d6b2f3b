//! Counters that others may look at while bytes move, and the way to stop them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Error, ErrorKind, Result};

/// Shared by the mover and whoever watches it; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    total: AtomicU64,
    done: AtomicU64,
    written: AtomicU64,
    zero: AtomicU64,
    cancelled: AtomicBool,
}

/// What the counters say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProgressSnapshot {
    /// Bytes of the disk that are to be looked at.
    pub total: u64,
    /// Of these, bytes that are dealt with.
    pub done: u64,
    /// Of these, bytes that were written as data.
    pub written: u64,
    /// Of these, bytes that are zero.
    pub zero: u64,
}

impl Progress {
    /// Everything at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters now.
    pub fn snapshot(&self) -> ProgressSnapshot {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ProgressSnapshot {
            total: get(&self.inner.total),
            done: get(&self.inner.done),
            written: get(&self.inner.written),
            zero: get(&self.inner.zero),
        }
    }

    /// Asks the mover to stop at the next block.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn begin(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: u64) {
        self.inner.done.fetch_add(bytes, Ordering::Relaxed);
        self.inner.written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn zeroed(&self, bytes: u64) {
        self.inner.done.fetch_add(bytes, Ordering::Relaxed);
        self.inner.zero.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn same(&self, bytes: u64) {
        self.inner.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::WrongState, "cancelled"));
        }
        Ok(())
    }
}
