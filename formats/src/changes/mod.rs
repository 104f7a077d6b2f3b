//! Changed extents: what a hypervisor or an operator says is different since a base.
//!
//! Invariant of [`ChangeList`]: sorted, no two ranges touch or overlap, none is empty. A list can
//! name too much (the block is sent once more) but never too little: every operation here keeps or
//! widens what is named, except [`ChangeList::clip`], which cuts at the disk's end. Answers that
//! come in pages go through the [`Pager`], which accepts nothing but a complete, gap-free series.

use std::io::Read;

use crate::error::{Error, ErrorKind, Result};
use crate::range::GuestRange;
use crate::range_set::RangeSet;

mod bounded;
mod json;
mod pager;

pub use json::ParseLimits;
pub use pager::{Page, Pager};

#[cfg(test)]
mod tests;

/// A set of changed byte ranges of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeList {
    ranges: Vec<GuestRange>,
}

impl ChangeList {
    /// The list that names every byte of a disk of `disk_size` bytes.
    pub fn whole(disk_size: u64) -> Self {
        Self::from_unsorted(GuestRange::new(0, disk_size))
    }

    /// Sorts and merges; ranges may overlap, touch or be empty, in any order.
    pub fn from_unsorted(ranges: impl IntoIterator<Item = GuestRange>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        // Hypervisors answer in order: the sort is then one pass.
        ranges.sort_by_key(|r| (r.start(), r.len()));
        ranges.dedup_by(|next, kept| match hull_if_touching(*kept, *next) {
            Some(hull) => {
                *kept = hull;
                true
            }
            None => false,
        });
        Self { ranges }
    }

    /// Reads `[{"offset": o, "length": l}, ...]` or `{"changes": [...]}`.
    ///
    /// Order and overlaps are free; members of an extent that we do not know are skipped. A zero
    /// length, an extent past `disk_size`, a missing or doubled member are refused as
    /// [`ErrorKind::BadExtents`]: such a list was cut or belongs to another disk. Anything beyond
    /// the limits, a name or value of more than 64 KiB, and more than 65536 open brackets are
    /// refused as [`ErrorKind::TooLarge`].
    pub fn parse_json(json: &[u8], disk_size: u64, limits: ParseLimits) -> Result<Self> {
        json::read(json, disk_size, limits)
    }

    /// The same from a reader, which may give the text out in pieces of any length: only the
    /// extents are kept. A read that fails, at whatever byte, gives no list but
    /// [`ErrorKind::Truncated`]; so a reader must fail where its text was cut off.
    pub fn read_json(json: impl Read, disk_size: u64, limits: ParseLimits) -> Result<Self> {
        json::read(json, disk_size, limits)
    }

    /// The ranges in ascending order.
    pub fn ranges(&self) -> &[GuestRange] {
        &self.ranges
    }

    /// Iterates over the ranges in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = GuestRange> + '_ {
        self.ranges.iter().copied()
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The number of bytes named.
    pub fn total(&self) -> u64 {
        // Disjoint ranges below u64::MAX cannot sum past it.
        self.ranges.iter().map(|r| r.len()).sum()
    }

    /// Whether every byte of `range` is named. True for an empty range.
    pub fn contains(&self, range: GuestRange) -> bool {
        range.is_empty()
            || self
                .first_ending_behind(range)
                .is_some_and(|r| r.intersect(range) == range)
    }

    /// Whether some byte of `range` is named.
    pub fn intersects(&self, range: GuestRange) -> bool {
        !range.is_empty()
            && self
                .first_ending_behind(range)
                .is_some_and(|r| !r.intersect(range).is_empty())
    }

    /// Cuts off whatever lies at or behind `disk_size`.
    #[must_use]
    pub fn clip(mut self, disk_size: u64) -> Self {
        let keep = self.ranges.partition_point(|r| r.start().get() < disk_size);
        self.ranges.truncate(keep);
        if let Some(last) = self.ranges.last_mut() {
            let end = last.end().get().min(disk_size);
            if let Some(cut) = between(last.start().get(), end) {
                *last = cut;
            }
        }
        self
    }

    /// Widens every range to whole units (clusters, sectors), and merges what then touches. Ends
    /// may then lie behind the disk's: [`clip`](Self::clip) after it. A unit of 0 or 1 changes
    /// nothing.
    #[must_use]
    pub fn align_out(self, unit: u64) -> Self {
        if unit <= 1 {
            return self;
        }
        let widen = |r: GuestRange| {
            let start = r.start().get() - r.start().get() % unit;
            let end = r.end().get();
            let end = end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
            between(start, end)
        };
        Self::from_unsorted(self.ranges.into_iter().filter_map(widen))
    }

    /// What is named and not in `done`: the ranges still missing, where `done` is what was covered.
    #[must_use]
    pub fn subtract(&self, done: &RangeSet) -> Self {
        Self {
            // Parts of ranges that do not touch, in order: they need no merging.
            ranges: self.iter().flat_map(|r| done.missing_in(r)).collect(),
        }
    }

    /// The last byte named plus one; 0 when nothing is.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |r| r.end().get())
    }

    /// Refuses a list that names bytes behind the disk's end.
    pub fn check_within(&self, disk_size: u64) -> Result<()> {
        if self.end() > disk_size {
            return Err(past_end(self.end(), disk_size));
        }
        Ok(())
    }

    /// The first range that ends behind the start of `range`: the only one that can hold it whole,
    /// and the first that can share a byte with it.
    fn first_ending_behind(&self, range: GuestRange) -> Option<GuestRange> {
        let i = self.ranges.partition_point(|r| r.end() <= range.start());
        self.ranges.get(i).copied()
    }
}

impl FromIterator<GuestRange> for ChangeList {
    fn from_iter<I: IntoIterator<Item = GuestRange>>(ranges: I) -> Self {
        Self::from_unsorted(ranges)
    }
}

/// Both as one, where they overlap or touch; `a` starts first.
fn hull_if_touching(a: GuestRange, b: GuestRange) -> Option<GuestRange> {
    if b.start() > a.end() {
        return None;
    }
    between(a.start().get(), a.end().max(b.end()).get())
}

/// The range from `start` to `end`; `None` where it would be turned round.
fn between(start: u64, end: u64) -> Option<GuestRange> {
    GuestRange::new(start, end.checked_sub(start)?)
}

fn bad(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadExtents, detail)
}

fn past_end(end: u64, disk_size: u64) -> Error {
    bad(format!(
        "an extent ends at byte {end}, past the disk's end at {disk_size}"
    ))
}
