//! The growing image as a plan: which host cluster a guest cluster goes to, and what the guest
//! sees. No byte of the image passes through here.
//!
//! Order of one write: [`plan_write`](Writer::plan_write) names the places; the caller writes the
//! data there; [`settle`](Writer::settle) makes it visible, and only when it was
//! [`Outcome::Done`]. Zeroing is visible at once. [`seal`](Writer::seal) turns the state into
//! metadata and ends the planning.
//!
//! The caller lets no two plans touch one cluster at a time (the engine's gate does).

use std::sync::Arc;

use super::layout::{MAX_BACKING_FORMAT, MAX_L1_BYTES, MAX_VIRTUAL_SIZE, SECTOR};
use super::place::{Place, Run};
use super::seal::Seal;
use super::slots::{Slots, State, Tally, Word};
use super::{Backing, Mapping, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::range::{ClusterIndex, ClusterSize, GuestOffset, GuestRange, HostOffset};

/// What a new image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// The disk's size in bytes, any value up to 2^60. The image's header says [`image_size`] of it.
    pub virtual_size: u64,
    /// 64 KiB to 2 MiB.
    pub cluster: ClusterSize,
    /// The parent, for an overlay.
    pub backing: Option<Backing>,
}

/// The size that a header says for a disk of so many bytes (at most 2^60): whole sectors of 512,
/// since QEMU drops the rest of one. The bytes in between read as zero.
pub const fn image_size(disk: u64) -> u64 {
    disk.div_ceil(SECTOR).saturating_mul(SECTOR)
}

/// Whether a header's size fits a disk of so many bytes: [`image_size`] of it, or, in images of our
/// first versions, its very size.
pub const fn is_image_size(header: u64, disk: u64) -> bool {
    header == disk || header == image_size(disk)
}

/// What a guest cluster is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nothing here: zero in a full, the parent's bytes in an overlay.
    Unallocated,
    /// Reads as zero, whatever the parent holds.
    Zero,
    /// The cluster of the file at this byte.
    Data(HostOffset),
}

/// Where one write goes. Give it back to [`Writer::settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the write becomes visible by settling its plan"]
pub struct WritePlan {
    /// Contiguous parts, in guest order.
    pub runs: Vec<Run>,
}

/// How a planned write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in the file.
    Done,
    /// Any part of it may be missing; what the guest sees stays as it was.
    Failed,
}

/// How much of what the image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Clusters that hold data.
    pub data_clusters: u64,
    /// Clusters that are explicitly zero (overlays only).
    pub zero_clusters: u64,
    /// Clusters with neither.
    pub unallocated_clusters: u64,
    /// Clusters of the file that were once used and hold nothing now.
    pub unused_host_clusters: u64,
}

/// A growing QCOW2 image, planned.
#[derive(Debug)]
pub struct Writer {
    options: CreateOptions,
    slots: Arc<Slots>,
    place: Place,
    sealed: bool,
}

fn outside(first: ClusterIndex, count: u64) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!(
            "{count} clusters from cluster {} on are not all inside of the disk",
            first.get()
        ),
    )
}

impl Writer {
    /// An empty image: nothing allocated.
    pub fn create(options: CreateOptions) -> Result<Self> {
        let cluster = options.cluster;
        if cluster.bits() < 16 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "clusters of {} bytes are read but not written: use 64 KiB to 2 MiB",
                    cluster.bytes()
                ),
            ));
        }
        let clusters = cluster.count(options.virtual_size);
        let l1_bytes = clusters.div_ceil(cluster.bytes() / 8) * 8;
        if options.virtual_size > MAX_VIRTUAL_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a disk of {} bytes is larger than {MAX_VIRTUAL_SIZE}, the most that is opened",
                    options.virtual_size
                ),
            ));
        }
        if l1_bytes > MAX_L1_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a disk of {} bytes needs an L1 table of {l1_bytes} bytes at clusters of {}; \
                     {MAX_L1_BYTES} is the most that QEMU opens: use larger clusters",
                    options.virtual_size,
                    cluster.bytes(),
                ),
            ));
        }
        if let Some(backing) = &options.backing {
            super::safe_backing_name(&backing.name)?;
            let format = backing.format.as_deref().unwrap_or_default();
            if format.is_empty() || format.len() > MAX_BACKING_FORMAT {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!(
                        "a parent needs its format named, in {MAX_BACKING_FORMAT} bytes at most: \
                         probing is never left to a reader"
                    ),
                ));
            }
        }
        Ok(Self {
            slots: Arc::new(Slots::new(clusters, cluster)?),
            place: Place::new(cluster),
            sealed: false,
            options,
        })
    }

    /// The cluster size.
    pub const fn cluster(&self) -> ClusterSize {
        self.options.cluster
    }

    /// The disk's exact size in bytes.
    pub const fn virtual_size(&self) -> u64 {
        self.options.virtual_size
    }

    /// The disk's clusters, the last one perhaps in part.
    pub fn clusters(&self) -> u64 {
        self.slots.clusters()
    }

    /// Whether it is an overlay.
    pub const fn has_backing(&self) -> bool {
        self.options.backing.is_some()
    }

    /// Everything in the file from here on is free.
    pub const fn data_end(&self) -> HostOffset {
        self.place.end()
    }

    /// Bytes of memory that the tables take; counts touched tables.
    pub fn table_memory(&self) -> u64 {
        self.slots.memory()
    }

    /// What a cluster is; behind the end of the disk: unallocated.
    pub fn slot(&self, cluster: ClusterIndex) -> Slot {
        self.slot_of(self.slots.get(cluster.get()))
    }

    fn slot_of(&self, word: Word) -> Slot {
        match word.state {
            State::Unallocated => Slot::Unallocated,
            State::Zero => Slot::Zero,
            State::Data => Slot::Data(self.host(word.host)),
        }
    }

    const fn host(&self, cluster: u64) -> HostOffset {
        HostOffset::new(cluster << self.options.cluster.bits())
    }

    /// What is at `range`, clipped to the disk: merged runs in order, at most `max` of them.
    pub fn map(&self, range: GuestRange, max: usize) -> Vec<Mapping> {
        let bits = self.options.cluster.bits();
        let end = range.end().get().min(self.options.virtual_size);
        let mut at = range.start().get();
        let mut out = Vec::new();
        while at < end && out.len() < max {
            let index = at >> bits;
            let (word, count) = self.slots.run(index, ((end - 1) >> bits) - index + 1);
            let until = ((index + count) << bits).min(end);
            let inside = at - (index << bits);
            let target = match word.state {
                State::Unallocated => Target::Unallocated,
                State::Zero => Target::Zero { host: None },
                State::Data => Target::Data {
                    host: HostOffset::new((word.host << bits) + inside),
                },
            };
            if let Some(range) = GuestRange::new(at, until - at) {
                out.push(Mapping { range, target });
            }
            at = until;
        }
        out
    }

    /// How much of what there is.
    pub fn counts(&self) -> Counts {
        let Tally { data, zero, hosts } = self.slots.tally();
        Counts {
            data_clusters: data,
            zero_clusters: zero,
            unallocated_clusters: self.slots.clusters() - data - zero,
            unused_host_clusters: hosts - data,
        }
    }

    fn check(&self, first: ClusterIndex, count: u64) -> Result<()> {
        if self.sealed {
            return Err(Error::new(
                ErrorKind::WrongState,
                "the image is sealed: nothing more can be planned",
            ));
        }
        let end = first.get().checked_add(count);
        if count == 0 || end.is_none_or(|end| end > self.slots.clusters()) {
            return Err(outside(first, count));
        }
        Ok(())
    }

    fn slots(&mut self) -> Result<&mut Slots> {
        Arc::get_mut(&mut self.slots)
            .ok_or_else(|| Error::new(ErrorKind::WrongState, "the image is sealed"))
    }

    /// Places whole clusters: in place where they own a host cluster already (also one from before
    /// they were zeroed), else at the end of the file, contiguous. The guest sees nothing of it yet.
    pub fn plan_write(&mut self, first: ClusterIndex, count: u64) -> Result<WritePlan> {
        self.check(first, count)?;
        let bits = self.options.cluster.bits();
        let mut runs: Vec<Run> = Vec::new();
        for cluster in first.get()..first.get() + count {
            let word = self.slots.get(cluster);
            let fresh = word.host == 0;
            let host = if fresh {
                let host = self.place.take()?;
                self.slots()?.set(cluster, Word { host, ..word })?;
                host
            } else {
                word.host
            };
            let host = HostOffset::new(host << bits);
            match runs.last_mut() {
                Some(run)
                    if run.fresh == fresh && run.host.get() + (run.count << bits) == host.get() =>
                {
                    run.count += 1;
                }
                _ => runs.push(Run {
                    first: ClusterIndex::new(cluster),
                    count: 1,
                    host,
                    fresh,
                }),
            }
        }
        Ok(WritePlan { runs })
    }

    /// Ends a plan. Only [`Outcome::Done`] makes the data visible; a failed one leaves every
    /// cluster as it was, with its place kept for the next try.
    pub fn settle(&mut self, plan: WritePlan, outcome: Outcome) -> Result<()> {
        let bits = self.options.cluster.bits();
        for run in &plan.runs {
            self.check(run.first, run.count)?;
            for i in 0..run.count {
                let cluster = run.first.get() + i;
                let host = (run.host.get() >> bits) + i;
                let word = self.slots.get(cluster);
                if word.host != host {
                    return Err(Error::new(
                        ErrorKind::WrongState,
                        format!("cluster {cluster} was never planned to host cluster {host}"),
                    ));
                }
                if outcome == Outcome::Done && word.state != State::Data {
                    let state = State::Data;
                    self.slots()?.set(cluster, Word { state, host })?;
                }
            }
        }
        Ok(())
    }

    /// Makes whole clusters read as zero, at once: explicitly zero in an overlay, unallocated in a
    /// full. Costs one step for each table, not for each cluster.
    pub fn plan_zero(&mut self, first: ClusterIndex, count: u64) -> Result<()> {
        self.check(first, count)?;
        let state = if self.has_backing() {
            State::Zero
        } else {
            State::Unallocated
        };
        self.slots()?.fill(first.get(), count, state)
    }

    /// Ends planning and lays out the metadata behind the data.
    pub fn seal(&mut self) -> Result<Seal> {
        if self.sealed {
            return Err(Error::new(ErrorKind::WrongState, "the image is sealed"));
        }
        let seal = Seal::new(&self.options, Arc::clone(&self.slots), self.place.next())?;
        self.sealed = true;
        Ok(seal)
    }

    /// The first byte of a cluster.
    pub const fn start_of(&self, cluster: ClusterIndex) -> GuestOffset {
        self.options.cluster.start(cluster)
    }
}

#[cfg(test)]
mod tests;
