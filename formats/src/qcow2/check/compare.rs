//! Comparing: what was counted against the refcounts of the file.

use std::collections::BTreeSet;

use super::Checker;
use super::counts::{PAGE, Used, mark};
use crate::qcow2::refcount::{RefcountShape, block_at};
use crate::qcow2::{OpenError, ReadAt};
use crate::range::HostOffset;

/// The bytes of one block that a repair changes, if any.
#[derive(Default)]
struct Repair {
    block: Vec<u8>,
    touched: Option<(usize, usize)>,
}

impl<R: ReadAt + ?Sized> Checker<'_, R> {
    /// Compares every cluster of the file.
    pub(super) fn compare(&mut self) -> Result<(), OpenError> {
        let Some(shape) = RefcountShape::new(self.header.refcount_order, self.header.cluster)
        else {
            return Ok(());
        };
        let blocks = self.blocks(shape)?;
        for (index, at) in &blocks {
            self.block(shape, *index, *at)?;
        }
        // What no block covers has a refcount of zero.
        let covered: BTreeSet<u64> = blocks.iter().map(|(index, _)| *index).collect();
        for first in self.counts.firsts() {
            if !covered.contains(&(first / shape.per_block())) {
                self.page(first, |_| 0, &mut |_, _| {});
            }
        }
        Ok(())
    }

    /// The refcount blocks that can be read and cover a part of the file.
    fn blocks(&mut self, shape: RefcountShape) -> Result<Vec<(u64, HostOffset)>, OpenError> {
        let table = u64::from(self.header.refcount_table_clusters) * self.header.cluster.bytes();
        let wanted = self.file_clusters().div_ceil(shape.per_block());
        let mut blocks = Vec::new();
        self.words(
            self.header.refcount_table_at,
            wanted.min(table / 8),
            |this, index, entry| match block_at(entry) {
                Some(at) if this.is_aligned(at) && at.get() < this.file_len => {
                    blocks.push((index, at));
                }
                _ => {}
            },
        )?;
        Ok(blocks)
    }

    fn block(&mut self, shape: RefcountShape, index: u64, at: HostOffset) -> Result<(), OpenError> {
        let block = self.read(at, self.header.cluster.bytes_usize())?;
        let first = index * shape.per_block();
        let end = (first + shape.per_block()).min(self.file_clusters());
        let mut repair = Repair::default();
        let mut page = first;
        while page < end {
            let stored = |cluster: u64| shape.get(&block, cluster - first).unwrap_or(0);
            // Not told of what is not kept: a table may name more blocks than memory holds.
            let wanted = self.report.beyond_leaks == 0;
            self.page(page, stored, &mut |cluster, count| {
                if wanted {
                    repair.lower(shape, &block, cluster - first, count);
                }
            });
            page += PAGE;
        }
        if self.report.beyond_leaks == 0
            && let Some((from, to)) = repair.touched
            && let Some(bytes) = repair.block.get(from..to)
            && let Some(at) = at.checked_add(from as u64)
        {
            self.report.repairs.push((at, bytes.to_vec()));
        }
        Ok(())
    }

    /// Compares 64 clusters; `lower` is told of each leak.
    fn page(&mut self, first: u64, stored: impl Fn(u64) -> u64, lower: &mut dyn FnMut(u64, u64)) {
        let counted = self.counts.page(first).copied();
        let end = self.file_clusters();
        for (cluster, within) in (first..first.saturating_add(PAGE)).zip(0_usize..) {
            let raw = counted.and_then(|page| page.get(within).copied());
            let used = raw.map_or(Used::default(), |raw| self.counts.used(cluster, raw));
            // Behind the file's end there is only what was found outside already.
            if cluster >= end {
                break;
            }
            let refcount = stored(cluster);
            if refcount == 0 && used.count == 0 {
                continue;
            }
            self.cluster(cluster, refcount, used);
            if refcount > used.count {
                lower(cluster, used.count);
            }
        }
    }

    fn cluster(&mut self, cluster: u64, refcount: u64, used: Used) {
        let bytes = self.header.cluster.bytes();
        let at = HostOffset::new(cluster.saturating_mul(bytes));
        let behind = HostOffset::new(at.get().saturating_add(bytes));
        let report = &mut self.report;
        report.image_end = report.image_end.max(behind);
        let count = used.count;
        let told = || format!("the cluster has refcount {refcount} and is used {count} times");
        if refcount > count {
            report.leak(at, told);
        } else if refcount < count {
            report.corruption(at, told);
        }
        for flag in [mark::COPIED, mark::BARE] {
            if used.marks & flag == 0 || fits(flag, refcount) {
                continue;
            }
            let what = if flag == mark::COPIED { "a" } else { "no" };
            let told =
                || format!("an entry has {what} copied flag, and the refcount is {refcount}");
            if refcount > count && fits(flag, count) {
                report.mendable(at, told);
            } else {
                report.corruption(at, told);
            }
        }
    }
}

/// Whether a flag that was seen agrees with a refcount.
fn fits(flag: u16, refcount: u64) -> bool {
    (flag == mark::COPIED) == (refcount == 1)
}

impl Repair {
    fn lower(&mut self, shape: RefcountShape, block: &[u8], index: u64, count: u64) {
        if self.block.is_empty() {
            self.block = block.to_vec();
        }
        if let Some(range) = shape.set(&mut self.block, index, count) {
            let (from, to) = self.touched.unwrap_or((range.start, range.end));
            self.touched = Some((from.min(range.start), to.max(range.end)));
        }
    }
}
