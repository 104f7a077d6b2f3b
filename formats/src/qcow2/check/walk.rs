//! Counting: what refers to which cluster of the file.
//!
//! Single tables first, then the L2 tables, then what those point at; so a later reference that
//! lands on an earlier table is seen at once.

use std::collections::BTreeMap;

use super::Checker;
use super::counts::mark;
use crate::qcow2::bytes::{u16_at, u32_at, u64_at};
use crate::qcow2::layout::{
    COMPRESSED, MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAP_ENTRIES, MAX_BITMAPS, MAX_L1_BYTES,
    MAX_SNAPSHOT_EXTRA, MAX_SNAPSHOT_TABLE_BYTES, OFFSET_MASK, REFCOUNT_TABLE_RESERVED,
};
use crate::qcow2::refcount::block_at;
use crate::qcow2::table::{L1Entry, L2Entry, L2Kind};
use crate::qcow2::{OpenError, ReadAt};
use crate::range::HostOffset;

/// Fixed bytes of an entry of the snapshot table.
const SNAPSHOT_FIXED: u64 = 40;
/// Fixed bytes of an entry of the bitmap directory.
const BITMAP_FIXED: u64 = 24;

/// How often an L2 table is referred to.
#[derive(Debug, Clone, Copy, Default)]
struct Referred {
    active: u64,
    all: u64,
}

type Tables = BTreeMap<HostOffset, Referred>;

impl<R: ReadAt + ?Sized> Checker<'_, R> {
    /// Counts every reference of the image.
    pub(super) fn walk(&mut self) -> Result<(), OpenError> {
        let cluster = self.header.cluster.bytes();
        self.single(HostOffset::new(0), cluster, "the header");
        let table = u64::from(self.header.refcount_table_clusters) * cluster;
        self.single(self.header.refcount_table_at, table, "the refcount table");
        self.refcount_blocks(table / 8)?;

        let mut tables = Tables::new();
        let (l1_at, entries) = (self.header.l1_at, u64::from(self.header.l1_entries));
        self.l1(l1_at, entries, true, "the L1 table", &mut tables)?;
        self.snapshots(&mut tables)?;
        self.bitmaps()?;

        for (at, referred) in &tables {
            self.table(*at, *referred);
        }
        for (at, referred) in &tables {
            self.entries(*at, *referred)?;
        }
        Ok(())
    }

    /// A table of which there is one: nothing else may lie where it does.
    fn single(&mut self, at: HostOffset, len: u64, what: &str) -> bool {
        self.refer(at, len, 1, mark::META, &|| what.to_owned())
    }

    /// Counts `times` references to a range of the file; false where it lies outside.
    fn refer(
        &mut self,
        at: HostOffset,
        len: u64,
        times: u64,
        marks: u16,
        what: &dyn Fn() -> String,
    ) -> bool {
        if len == 0 {
            return true;
        }
        let bits = self.header.cluster.bits();
        // The last cluster may be cut short by the file's end, but not be missing; a table whose
        // entries are cut off is damage.
        let spare = if marks == mark::META {
            1
        } else {
            self.header.cluster.bytes()
        };
        let inside = at
            .get()
            .checked_add(len)
            .is_some_and(|end| end <= self.file_len || end - self.file_len < spare);
        if !inside {
            self.report.corruption(at, || {
                format!("{} ({len} bytes) lies beyond the file's end", what())
            });
            return false;
        }
        for cluster in at.get() >> bits..=(at.get() + len - 1) >> bits {
            let before = self.counts.add(cluster, times, marks);
            let clash = match marks {
                mark::META => before.count > 0,
                mark::TABLE => before.marks & mark::META != 0,
                _ => before.marks & (mark::META | mark::TABLE) != 0,
            };
            if clash {
                let at = HostOffset::new(cluster << bits);
                self.report
                    .corruption(at, || format!("{} lies on top of another table", what()));
            }
        }
        true
    }

    /// Takes a table's bytes from the budget; false, and a finding, where tables must overlap.
    fn spend(&mut self, at: HostOffset, bytes: u64, what: &str) -> bool {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => {
                self.report.corruption(at, || {
                    format!("{what} and the tables before it are larger than is possible")
                });
                false
            }
        }
    }

    fn refcount_blocks(&mut self, entries: u64) -> Result<(), OpenError> {
        let cluster = self.header.cluster.bytes();
        self.words(
            self.header.refcount_table_at,
            entries,
            |this, index, entry| {
                let name = || format!("refcount block {index}");
                if entry & REFCOUNT_TABLE_RESERVED != 0 {
                    this.report.corruption(this.header.refcount_table_at, || {
                        format!("the entry of {} has reserved bits", name())
                    });
                }
                let Some(at) = block_at(entry) else {
                    return;
                };
                if this.is_aligned(at) {
                    this.refer(at, cluster, 1, mark::META, &name);
                } else {
                    this.report
                        .corruption(at, || format!("{} is not aligned", name()));
                }
            },
        )
    }

    /// Counts an L1 table and collects the L2 tables that it refers to.
    fn l1(
        &mut self,
        at: HostOffset,
        entries: u64,
        active: bool,
        what: &str,
        tables: &mut Tables,
    ) -> Result<(), OpenError> {
        if !self.single(at, entries * 8, what) {
            return Ok(());
        }
        self.words(at, entries, |this, index, raw| {
            let entry = L1Entry::from_raw(raw);
            if entry.has_reserved_bits() {
                this.report
                    .corruption(at, || format!("entry {index} of {what} has reserved bits"));
            }
            let Some(table) = entry.table() else {
                if entry.copied() {
                    this.report.corruption(at, || {
                        format!("entry {index} of {what} has a flag and no table")
                    });
                }
                return;
            };
            if !this.is_aligned(table) {
                this.report.corruption(table, || {
                    format!("the L2 table of entry {index} of {what} is not aligned")
                });
                return;
            }
            let referred = tables.entry(table).or_default();
            referred.all += 1;
            if active {
                referred.active += 1;
                if table.get() < this.file_len {
                    this.claim(table, entry.copied());
                }
            }
        })
    }

    /// Remembers what an active entry says about a cluster's refcount.
    fn claim(&mut self, at: HostOffset, copied: bool) {
        let marks = if copied { mark::COPIED } else { mark::BARE };
        let cluster = at.get() >> self.header.cluster.bits();
        self.counts.add(cluster, 0, marks);
    }

    fn snapshots(&mut self, tables: &mut Tables) -> Result<(), OpenError> {
        let start = self.header.snapshots_at;
        if self.header.snapshots > 0 && (!self.is_aligned(start) || start.get() == 0) {
            self.report
                .corruption(start, || "the snapshot table is not aligned".to_owned());
            return Ok(());
        }
        let mut at = start.get();
        for index in 0..self.header.snapshots {
            at = at.next_multiple_of(8);
            let here = HostOffset::new(at);
            if at
                .checked_add(SNAPSHOT_FIXED)
                .is_none_or(|end| end > self.file_len)
            {
                self.report.corruption(here, || {
                    format!("entry {index} of the snapshot table lies beyond the file's end")
                });
                break;
            }
            let fixed = self.read(here, 40)?;
            let l1_at = HostOffset::new(u64_at(&fixed, 0).unwrap_or(0));
            let entries = u64::from(u32_at(&fixed, 8).unwrap_or(0));
            let names = u64::from(u16_at(&fixed, 12).unwrap_or(0))
                + u64::from(u16_at(&fixed, 14).unwrap_or(0));
            let extra = u64::from(u32_at(&fixed, 36).unwrap_or(0));
            let next = at + SNAPSHOT_FIXED + extra + names;
            if extra > MAX_SNAPSHOT_EXTRA || next - start.get() > MAX_SNAPSHOT_TABLE_BYTES {
                self.report.corruption(here, || {
                    format!("entry {index} of the snapshot table is larger than is possible")
                });
                break;
            }
            let what = format!("the L1 table of snapshot {index}");
            if self.header.version >= 3 && extra < 16 {
                self.report.corruption(here, || {
                    format!("entry {index} of the snapshot table is too short for version 3")
                });
            }
            if entries * 8 > MAX_L1_BYTES || !self.is_aligned(l1_at) {
                self.report
                    .corruption(l1_at, || format!("{what} is not aligned or too large"));
            } else if self.spend(l1_at, entries * 8, &what) {
                self.l1(l1_at, entries, false, &what, tables)?;
            }
            at = next;
        }
        self.single(start, at - start.get(), "the snapshot table");
        Ok(())
    }

    fn bitmaps(&mut self) -> Result<(), OpenError> {
        let Some(directory) = self.header.bitmaps() else {
            return Ok(());
        };
        let what = "the bitmap directory";
        if !self.is_aligned(directory.at)
            || directory.bitmaps > MAX_BITMAPS
            || directory.bytes > MAX_BITMAP_DIRECTORY_BYTES
        {
            self.report.corruption(directory.at, || {
                format!("{what} is not aligned or too large")
            });
            return Ok(());
        }
        if !self.spend(directory.at, directory.bytes, what)
            || !self.single(directory.at, directory.bytes, what)
        {
            return Ok(());
        }
        let end = directory.at.get() + directory.bytes;
        let mut at = directory.at.get();
        for index in 0..directory.bitmaps {
            let here = HostOffset::new(at);
            if at + BITMAP_FIXED > end {
                self.report
                    .corruption(here, || format!("{what} ends before bitmap {index}"));
                break;
            }
            let fixed = self.read(here, 24)?;
            let table = HostOffset::new(u64_at(&fixed, 0).unwrap_or(0));
            let entries = u64::from(u32_at(&fixed, 8).unwrap_or(0));
            self.bitmap(index, table, entries)?;
            let name = u64::from(u16_at(&fixed, 18).unwrap_or(0));
            let extra = u64::from(u32_at(&fixed, 20).unwrap_or(0));
            at = (at + BITMAP_FIXED + extra + name).next_multiple_of(8);
        }
        Ok(())
    }

    fn bitmap(&mut self, index: u32, at: HostOffset, entries: u64) -> Result<(), OpenError> {
        let what = format!("the table of bitmap {index}");
        if !self.is_aligned(at) || entries > MAX_BITMAP_ENTRIES {
            self.report
                .corruption(at, || format!("{what} is not aligned or too large"));
            return Ok(());
        }
        if !self.spend(at, entries * 8, &what) || !self.single(at, entries * 8, &what) {
            return Ok(());
        }
        let cluster = self.header.cluster.bytes();
        self.words(at, entries, |this, entry, raw| {
            let name = || format!("part {entry} of bitmap {index}");
            let data = HostOffset::new(raw & OFFSET_MASK);
            // Without a cluster, bit 0 says that all bits are ones.
            let reserved = raw & !OFFSET_MASK & if data.get() == 0 { !1 } else { !0 };
            if reserved != 0 || !this.is_aligned(data) {
                this.report
                    .corruption(data, || format!("the entry of {} is not possible", name()));
            } else if data.get() != 0 {
                this.refer(data, cluster, 1, 0, &name);
            }
        })
    }

    fn table(&mut self, at: HostOffset, referred: Referred) {
        let cluster = self.header.cluster.bytes();
        let name = || format!("the L2 table at {}", at.get());
        let inside = self.refer(at, cluster, referred.all, mark::TABLE, &name);
        if inside && at.get() + cluster > self.file_len {
            self.report
                .corruption(at, || format!("{} is cut off by the file's end", name()));
        }
    }

    fn entries(&mut self, at: HostOffset, referred: Referred) -> Result<(), OpenError> {
        if at.get() >= self.file_len {
            return Ok(());
        }
        let shape = self.header.shape();
        let table = self.read(at, shape.cluster.bytes_usize())?;
        let mut follows = 0;
        for index in 0..shape.entries() {
            let entry = shape.entry(&table, index).unwrap_or_default();
            if entry == L2Entry::UNALLOCATED {
                continue;
            }
            let here = at.get() + index * shape.entry_bytes() as u64;
            self.entry(HostOffset::new(here), entry, referred, &mut follows);
        }
        Ok(())
    }

    fn entry(&mut self, at: HostOffset, entry: L2Entry, referred: Referred, follows: &mut u64) {
        let shape = self.header.shape();
        let what = || format!("what the L2 entry at {} refers to", at.get());
        if entry.has_reserved_bits(shape) {
            self.report
                .corruption(at, || "an L2 entry has reserved bits".to_owned());
        }
        let kind = entry.kind(shape);
        let packed = entry.raw() & COMPRESSED != 0;
        if (packed && entry.bitmap() != 0) || (!packed && !entry.bitmap_is_consistent()) {
            self.report.corruption(at, || {
                "the subclusters of an L2 entry contradict themselves".into()
            });
        }
        if self.header.version < 3 && matches!(kind, L2Kind::Zero(_)) {
            self.report
                .corruption(at, || "version 2 does not have zero clusters".to_owned());
        }
        match kind {
            L2Kind::Unallocated | L2Kind::Zero(None) => {}
            L2Kind::Compressed(host, len) => {
                self.report.allocated_clusters += referred.active;
                self.report.compressed_clusters += referred.active;
                self.report.fragmented_clusters += referred.active;
                if entry.copied() {
                    self.report
                        .corruption(at, || "a compressed cluster has the copied flag".to_owned());
                }
                if host.get() >= self.file_len {
                    self.report
                        .corruption(at, || format!("{} lies beyond the file's end", what()));
                } else {
                    self.refer(host, len as u64, referred.all, 0, &what);
                }
            }
            L2Kind::Zero(Some(host)) | L2Kind::Data(host) => {
                self.report.allocated_clusters += referred.active;
                if *follows != 0 && host.get() != *follows {
                    self.report.fragmented_clusters += referred.active;
                }
                let cluster = shape.cluster.bytes();
                *follows = host.get() + cluster;
                if !self.is_aligned(host) {
                    self.report
                        .corruption(at, || format!("{} is not aligned", what()));
                } else if self.refer(host, cluster, referred.all, 0, &what) && referred.active > 0 {
                    self.claim(host, entry.copied());
                }
            }
        }
    }
}
