//! What all connections of one ingest share, and the entry of every change.
//!
//! Nothing here is locked across I/O. Lock order: none of these mutexes is taken while another is
//! held.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sendense_formats::qcow2::{Slot, Writer};
use sendense_formats::{ClusterIndex, ClusterSize, GuestRange};
use sendense_nbd::NbdError;

use super::ahead::Ahead;
use super::checksums::Checksums;
use super::coverage::Coverage;
use super::failed::Moment;
use super::flush::Rounds;
use super::gate::Gate;
use super::held::Held;
use super::life::{Active, Life, Phase};
use super::lock;
use super::parent::Parent;
use super::seal::Sealing;
use crate::storage::File;

/// The planner and what follows its decisions: settled together.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) writer: Writer,
    pub(super) checksums: Checksums,
}

/// What was counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Payload bytes of writes that succeeded.
    pub(super) transferred: AtomicU64,
    /// Bytes that were zeroed, trimmed, or found to be zero.
    pub(super) zero: AtomicU64,
    /// Bytes of clusters written to the file, rewrites included.
    pub(super) written: AtomicU64,
}

/// The shared part of an ingest.
#[derive(Debug)]
pub(super) struct Core {
    /// For errors: which image.
    pub(super) label: String,
    pub(super) file: Arc<dyn File>,
    pub(super) parent: Option<Arc<dyn Parent>>,
    pub(super) cluster: ClusterSize,
    pub(super) size: u64,
    pub(super) plan: Mutex<Plan>,
    pub(super) coverage: Mutex<Coverage>,
    pub(super) gate: Gate,
    pub(super) held: Held,
    pub(super) life: Life,
    pub(super) rounds: Rounds,
    pub(super) ahead: Ahead,
    pub(super) counters: Counters,
    pub(super) sealing: tokio::sync::Mutex<Sealing>,
}

/// A change that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    range: GuestRange,
    begun: Moment,
}

/// A request cut at the borders of clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Whole clusters.
    pub(super) first: u64,
    /// Exclusive; `first` where there are none.
    pub(super) last: u64,
}

impl Core {
    /// Begins a change of `range`; a refusal is remembered, so that the range is asked for again.
    pub(super) fn begin(&self, at: u64, len: u64) -> Result<(Active<'_>, Change), NbdError> {
        let range = GuestRange::new(at, len).filter(|r| r.end().get() <= self.size);
        let range = range.ok_or(NbdError::Invalid)?;
        let refusal = match self.life.begin() {
            Ok(active) => {
                let admitted = lock(&self.coverage).admit(range);
                if let Some(begun) = admitted {
                    return Ok((active, Change { range, begun }));
                }
                NbdError::NoMemory
            }
            Err(e) => e,
        };
        self.not_taken(range, refusal == NbdError::Shutdown);
        Err(refusal)
    }

    /// A change that was asked for and never came, of a range that nobody checked.
    pub(super) fn refused(&self, at: u64, len: u64) {
        let range = GuestRange::between(at, at.saturating_add(len).min(self.size));
        if !range.is_empty() {
            self.not_taken(range, self.life.phase() != Phase::Open);
        }
    }

    /// Remembers what has to be sent again; while it is frozen, only if it opens once more.
    fn not_taken(&self, range: GuestRange, frozen: bool) {
        if !frozen {
            lock(&self.coverage).fail(range);
            return;
        }
        lock(&self.coverage).refuse(range);
        // Thawed in between: whoever comes second takes it over.
        if self.life.phase() == Phase::Open {
            lock(&self.coverage).thaw();
        }
    }

    /// Ends a change.
    pub(super) fn finish(
        &self,
        change: Change,
        result: Result<(), NbdError>,
    ) -> Result<(), NbdError> {
        let mut coverage = lock(&self.coverage);
        match result {
            Ok(()) => coverage.cover(change.range, change.begun),
            Err(_) => coverage.fail(change.range),
        }
        result
    }

    /// Which whole clusters `at .. end` holds.
    pub(super) fn cut(&self, at: u64, end: u64) -> Cut {
        let first = self.cluster.count(at);
        let last = end >> self.cluster.bits();
        Cut {
            first,
            last: last.max(first),
        }
    }

    pub(super) fn byte(&self, cluster: u64) -> u64 {
        self.cluster.start(ClusterIndex::new(cluster)).get()
    }

    /// Bytes of a cluster that are inside of the disk.
    pub(super) fn inside(&self, cluster: u64) -> usize {
        let left = self.size.saturating_sub(self.byte(cluster));
        usize::try_from(left).map_or(self.cluster.bytes_usize(), |left| {
            left.min(self.cluster.bytes_usize())
        })
    }

    pub(super) fn slot(&self, cluster: u64) -> Slot {
        lock(&self.plan).writer.slot(ClusterIndex::new(cluster))
    }

    /// Up to where the parent has bytes to give.
    pub(super) fn parent_end(&self) -> u64 {
        self.parent.as_ref().map_or(0, |p| p.size())
    }

    pub(super) fn count(&self, counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// What a failure is about.
    pub(super) fn doing<'a>(&'a self, what: &'a str) -> impl fmt::Display + 'a {
        struct Doing<'a>(&'a str, &'a str);
        impl fmt::Display for Doing<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}: {}", self.0, self.1)
            }
        }
        Doing(&self.label, what)
    }

    /// The planner refused what it must be able to do: nothing after it can be trusted.
    pub(super) fn plan_failed(&self, error: &sendense_formats::Error) -> NbdError {
        self.life
            .poison_with(false, format!("{}: {error}", self.label))
    }
}
