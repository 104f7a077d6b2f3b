//! The metadata of a finished image, laid out behind its data in one run:
//!
//! ```text
//! header | data ... | L2 tables | refcount blocks | refcount table | L1 | end of file
//! cluster 0          `--------------- one run, whole clusters --------'
//! ```
//!
//! Invariants: every reference carries COPIED; every referenced cluster has refcount 1, refcount
//! blocks their own included; a cluster of the file that nothing refers to has refcount 0. Tables
//! are made while they are written, cluster by cluster, so a seal holds no copy of them.

use std::sync::Arc;

use super::Header;
use super::layout::{COPIED, MAX_REFCOUNT_TABLE_BYTES, ZERO};
use super::slots::{Slots, State};
use super::writer::{CreateOptions, image_size};
use crate::error::{Error, ErrorKind, Result};
use crate::range::{ClusterSize, HostOffset};

/// The longest piece of [`Seal::metadata`].
const PIECE: u64 = 4 << 20;

/// The clusters of the metadata run, by kind; each part begins where the one before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// The first host cluster of the run.
    start: u64,
    l2: u64,
    blocks: u64,
    table: u64,
    l1: u64,
}

impl Layout {
    /// Refcount blocks count themselves and their table, so their number is found by growing it
    /// until it covers what it makes necessary; it only grows, and by ever less.
    fn solve(start: u64, l2: u64, l1: u64, cluster: ClusterSize) -> Result<Self> {
        let per_block = cluster.bytes() / 2;
        let (mut blocks, mut table) = (1, 1);
        loop {
            let all = start + l2 + blocks + table + l1;
            let need = all.div_ceil(per_block);
            let need_table = (need * 8).div_ceil(cluster.bytes());
            if need <= blocks && need_table <= table {
                break;
            }
            (blocks, table) = (need.max(blocks), need_table.max(table));
        }
        if table << cluster.bits() > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the image holds more data than QEMU's refcount table can count: use larger clusters",
            ));
        }
        Ok(Self {
            start,
            l2,
            blocks,
            table,
            l1,
        })
    }

    const fn blocks_at(&self) -> u64 {
        self.start + self.l2
    }

    const fn table_at(&self) -> u64 {
        self.blocks_at() + self.blocks
    }

    const fn l1_at(&self) -> u64 {
        self.table_at() + self.table
    }

    const fn end(&self) -> u64 {
        self.l1_at() + self.l1
    }
}

/// A sealed image's metadata, ready to be written. Holds the tables, so memory stays as it was.
#[derive(Debug)]
pub struct Seal {
    cluster: ClusterSize,
    slots: Arc<Slots>,
    layout: Layout,
    /// The tables that become L2 tables, in order.
    l2: Vec<usize>,
    /// Host clusters without a reference, one bit each; empty where there are none.
    unseen: Vec<u64>,
    header: Vec<u8>,
}

impl Seal {
    pub(super) fn new(options: &CreateOptions, slots: Arc<Slots>, start: u64) -> Result<Self> {
        let cluster = options.cluster;
        let l2: Vec<usize> = (0..slots.table_count())
            .filter(|t| slots.speaks(*t))
            .collect();
        // An empty disk still gets an L1 table of one entry, so that its offset means something.
        let l1_entries = slots.table_count().max(1);
        let l1 = cluster.count((l1_entries as u64) * 8);
        let layout = Layout::solve(start, l2.len() as u64, l1, cluster)?;
        let unseen = unseen_bits(&slots, start)?;
        let too_large = |_| Error::new(ErrorKind::TooLarge, "a table with more than 2^32 entries");
        let header = Header {
            l1_entries: u32::try_from(l1_entries).map_err(too_large)?,
            l1_at: HostOffset::new(layout.l1_at() << cluster.bits()),
            refcount_table_at: HostOffset::new(layout.table_at() << cluster.bits()),
            refcount_table_clusters: u32::try_from(layout.table).map_err(too_large)?,
            backing: options.backing.clone(),
            ..Header::new(cluster, image_size(options.virtual_size))
        };
        let header = header.encode()?;
        Ok(Self {
            cluster,
            slots,
            layout,
            l2,
            unseen,
            header,
        })
    }

    /// Cluster 0 of the file, to be written last.
    pub fn header(&self) -> Vec<u8> {
        self.header.clone()
    }

    /// The exact length of the file.
    pub const fn file_len(&self) -> u64 {
        self.layout.end() << self.cluster.bits()
    }

    /// Where the metadata run begins; it ends with the file.
    pub const fn metadata_at(&self) -> HostOffset {
        HostOffset::new(self.layout.start << self.cluster.bits())
    }

    /// The metadata run in pieces of at most 4 MiB, in file order, without gaps.
    pub fn metadata(&self) -> impl Iterator<Item = (HostOffset, Vec<u8>)> + '_ {
        let bits = self.cluster.bits();
        let step = (PIECE >> bits).max(1);
        let mut at = self.layout.start;
        std::iter::from_fn(move || {
            let n = step.min(self.layout.end().saturating_sub(at));
            if n == 0 {
                return None;
            }
            let len = usize::try_from(n << bits).ok()?;
            let mut piece = vec![0; len];
            for (i, bytes) in (at..).zip(piece.chunks_exact_mut(self.cluster.bytes_usize())) {
                self.fill(i, bytes);
            }
            let host = HostOffset::new(at << bits);
            at += n;
            Some((host, piece))
        })
    }

    /// Makes the bytes of the metadata run from `at` on, a whole number of clusters inside of it.
    pub fn fill_metadata(&self, at: HostOffset, bytes: &mut [u8]) -> Result<()> {
        let size = self.cluster.bytes();
        let end = at.get().checked_add(bytes.len() as u64);
        if at < self.metadata_at()
            || end.is_none_or(|end| end > self.file_len())
            || !at.get().is_multiple_of(size)
            || !(bytes.len() as u64).is_multiple_of(size)
        {
            return Err(Error::at(
                ErrorKind::OutOfRange,
                at,
                "not whole clusters of the metadata run",
            ));
        }
        let first = at.get() >> self.cluster.bits();
        for (i, bytes) in (first..).zip(bytes.chunks_exact_mut(self.cluster.bytes_usize())) {
            self.fill(i, bytes);
        }
        Ok(())
    }

    /// Makes one metadata cluster, by its number in the file.
    fn fill(&self, host: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let l = &self.layout;
        if host < l.blocks_at() {
            self.fill_l2(host - l.start, bytes);
        } else if host < l.table_at() {
            self.fill_block(host - l.blocks_at(), bytes);
        } else if host < l.l1_at() {
            let per = self.cluster.bytes() / 8;
            let skip = (host - l.table_at()) * per;
            let entries = (skip..l.blocks).map(|i| (l.blocks_at() + i) << self.cluster.bits());
            put(bytes, entries);
        } else {
            self.fill_l1(host - l.l1_at(), bytes);
        }
    }

    fn fill_l2(&self, nth: u64, bytes: &mut [u8]) {
        let table = usize::try_from(nth).ok().and_then(|n| self.l2.get(n));
        let Some(&table) = table else { return };
        let bits = self.cluster.bits();
        let entries = self.slots.words(table).map(|word| match word.state {
            State::Unallocated => 0,
            State::Zero => ZERO,
            State::Data => word.host << bits | COPIED,
        });
        put(bytes, entries);
    }

    /// Everything up to the end of the file is referenced, but for the unseen ones.
    fn fill_block(&self, nth: u64, bytes: &mut [u8]) {
        let per_block = self.cluster.bytes() / 2;
        let first = nth * per_block;
        let until = (first + per_block).min(self.layout.end());
        let one = 1_u16.to_be_bytes();
        if self.unseen.is_empty() {
            // The usual case, and 64 MiB of it for a dense disk of 2 TiB.
            for (entry, _) in bytes.chunks_exact_mut(2).zip(first..until) {
                entry.copy_from_slice(&one);
            }
            return;
        }
        for (entry, host) in bytes.chunks_exact_mut(2).zip(first..until) {
            let word = usize::try_from(host / 64).ok();
            let word = word.and_then(|w| self.unseen.get(w)).unwrap_or(&0);
            let references = u16::from(word >> (host % 64) & 1 == 0);
            entry.copy_from_slice(&references.to_be_bytes());
        }
    }

    fn fill_l1(&self, nth: u64, bytes: &mut [u8]) {
        let per = self.cluster.bytes() / 8;
        let Ok(first) = usize::try_from(nth * per) else {
            return;
        };
        let from = self.l2.partition_point(|t| *t < first);
        for (i, table) in self.l2.iter().enumerate().skip(from) {
            let at = (table - first) * 8;
            let Some(entry) = bytes.get_mut(at..at + 8) else {
                break;
            };
            let host = (self.layout.start + i as u64) << self.cluster.bits();
            entry.copy_from_slice(&(host | COPIED).to_be_bytes());
        }
    }
}

/// One bit for each host cluster before `end` that is owned but not seen.
fn unseen_bits(slots: &Slots, end: u64) -> Result<Vec<u64>> {
    let mut bits = Vec::new();
    for host in slots.unseen_hosts() {
        if bits.is_empty() {
            let words = usize::try_from(end.div_ceil(64)).map_err(|_| {
                Error::new(ErrorKind::TooLarge, "more clusters than memory addresses")
            })?;
            bits = vec![0; words];
        }
        let word = usize::try_from(host / 64).ok();
        if let Some(word) = word.and_then(|w| bits.get_mut(w)) {
            *word |= 1 << (host % 64);
        }
    }
    Ok(bits)
}

fn put(bytes: &mut [u8], entries: impl Iterator<Item = u64>) {
    for (slot, entry) in bytes.chunks_exact_mut(8).zip(entries) {
        slot.copy_from_slice(&entry.to_be_bytes());
    }
}
