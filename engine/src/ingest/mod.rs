//! Receiving a disk: whatever connections write, zero, trim and read becomes one QCOW2 file.
//!
//! The way of a WRITE: `write` cuts it into whole clusters, which go straight from the receive
//! buffer to the file, and parts of clusters, which gather in the accumulator (`held`) until they
//! are full or room is needed (`partial`). The `gate` admits one operation to a cluster at a time.
//! `formats` plans the places behind one short lock; a cluster becomes visible when its data is
//! in the file. `coverage` knows what was sent and what failed. `flush` makes replied changes
//! durable, `seal` turns the growing file into an image.
//!
//! Invariants:
//! - no lock is held across I/O; nothing is retried after a failed sync;
//! - a storage failure poisons the export: everything after it answers EIO, or ENOSPC;
//! - memory is bounded: touched tables and checksums by the planner, parts of clusters by
//!   [`IngestOptions::accumulator_bytes`], fills by the operations in flight.
//!
//! It may be attached on any number of threads; each connection stays on its own.

mod ahead;
mod checksums;
mod core;
mod coverage;
mod detach;
mod export;
mod failed;
mod flush;
mod gate;
mod held;
mod intervals;
mod life;
mod parent;
mod partial;
mod read;
mod seal;
mod write;
mod zero;
mod zeros;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sendense_formats::ChangeList;
use sendense_formats::qcow2::{CreateOptions, Writer};

pub use checksums::Checksums;
pub use coverage::CoverageRule;
pub use parent::Parent;
pub use seal::Prepared;

use self::ahead::Ahead;
use self::core::{Core, Counters, Plan};
use self::coverage::Coverage;
use self::held::Held;
use self::life::{Life, Phase};
use crate::io::Io;
use crate::storage::File;
use crate::{Error, ErrorKind, Result};

/// What an ingest is made of.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// The growing file: empty, locked exclusively by the caller.
    pub file: Arc<dyn File>,
    /// The image that it becomes.
    pub create: CreateOptions,
    /// The parent's content; exactly where `create` names a backing file.
    pub parent: Option<Arc<dyn Parent>>,
    /// What must be sent before the seal.
    pub coverage: CoverageRule,
    /// Memory for parts of clusters, in bytes; two clusters at least.
    pub accumulator_bytes: u64,
    /// How far space is allocated in front of the data at most, in bytes; 0 is never.
    pub allocate_ahead: u64,
    /// The image's name, for errors.
    pub label: String,
}

impl IngestOptions {
    /// An ingest with the usual bounds, of which all must be sent.
    pub fn new(file: Arc<dyn File>, create: CreateOptions) -> Self {
        Self {
            file,
            create,
            parent: None,
            coverage: CoverageRule::Whole,
            accumulator_bytes: 64 << 20,
            allocate_ahead: 1 << 30,
            label: "disk".to_owned(),
        }
    }
}

/// How far an ingest has come, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Payload received.
    pub transferred: u64,
    /// In clusters that hold data now.
    pub stored: u64,
    /// Came as zero, was zeroed or trimmed.
    pub zero: u64,
    /// Of the disk, sent in one way or another.
    pub covered: u64,
    /// Written to the file, rewrites included.
    pub written: u64,
    /// Held in memory for parts of clusters.
    pub held: u64,
    /// The disk's size.
    pub size: u64,
}

/// A disk that is being received.
pub struct Ingest {
    core: Arc<Core>,
}

impl fmt::Debug for Ingest {
    /// Which one; never its tables and buffers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("label", &self.core.label)
            .field("size", &self.core.size)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    /// Begins. Nothing is written yet.
    pub fn create(options: IngestOptions) -> Result<Arc<Self>> {
        if options.create.backing.is_some() != options.parent.is_some() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: an overlay needs its parent, and a full has none",
                    options.label
                ),
            ));
        }
        let (cluster, size) = (options.create.cluster, options.create.virtual_size);
        let writer = Writer::create(options.create)?;
        let data_limit = (writer.clusters() + 1).saturating_mul(cluster.bytes());
        let core = Core {
            label: options.label,
            file: options.file,
            parent: options.parent,
            cluster,
            size,
            plan: Mutex::new(Plan {
                writer,
                checksums: Checksums::new(cluster),
            }),
            coverage: Mutex::new(Coverage::new(options.coverage, cluster, size)),
            gate: gate::Gate::default(),
            held: Held::new(options.accumulator_bytes, cluster.bytes_usize()),
            life: Life::new(),
            rounds: flush::Rounds::default(),
            ahead: Ahead::new(options.allocate_ahead, data_limit),
            counters: Counters::default(),
            sealing: tokio::sync::Mutex::default(),
        };
        Ok(Arc::new(Self {
            core: Arc::new(core),
        }))
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.core.progress()
    }

    /// Declares which ranges will be sent; only before any data.
    pub fn set_changes(&self, changes: ChangeList) -> Result<()> {
        let core = &self.core;
        let rule = CoverageRule::Declared(changes);
        let open = core.life.phase() == Phase::Open;
        if open && lock(&core.coverage).set_rule(rule) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WrongState,
            format!("{}: changes are declared before any data", core.label),
        ))
    }

    /// The storage failure that ended it, if one has.
    pub fn failure(&self) -> Option<Error> {
        self.core.life.poisoned()
    }

    /// Refuses further changes (ESHUTDOWN) and waits for those under way. Reads go on.
    pub async fn freeze(&self) -> Result<()> {
        self.core.life.freeze().await
    }

    /// Steps 1 to 7 of the seal: afterwards the file is a complete, durable, checked image under
    /// its temporary name. Where not everything was sent, [`ErrorKind::IncompleteCoverage`] names
    /// what is missing and the export takes it. Asked again, it answers the same.
    pub async fn prepare(&self, io: &Io) -> Result<Prepared> {
        self.core.prepare(io).await
    }

    /// Ends it without an image: everything but reads in flight answers ESHUTDOWN. The file may be
    /// removed once [`drained`](Self::drained) has returned.
    pub fn abort(&self) {
        self.core.life.enter(Phase::Aborted);
    }

    /// Waits until nothing touches the file any more, a seal that runs included; after
    /// [`freeze`](Self::freeze) or [`abort`](Self::abort).
    pub async fn drained(&self) {
        self.core.life.drained().await;
        // Held by a seal from its first step to its last.
        drop(self.core.sealing.lock().await);
        self.core.ahead.stop().await;
    }
}

impl Core {
    fn progress(&self) -> Progress {
        let counts = lock(&self.plan).writer.counts();
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            transferred: read(&self.counters.transferred),
            stored: counts.data_clusters * self.cluster.bytes(),
            zero: read(&self.counters.zero),
            covered: lock(&self.coverage).total(),
            written: read(&self.counters.written),
            held: self.held.bytes(),
            size: self.size,
        }
    }
}

/// A panic elsewhere is no reason to panic here: what the mutexes guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
