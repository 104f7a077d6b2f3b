//! How often each host cluster is referred to: two bytes for a cluster, in pages of 64 that exist
//! once one of theirs is used. A huge sparse file costs what its tables mention.

use std::collections::HashMap;

/// Clusters of one page. Divides the clusters of every refcount block.
pub(super) const PAGE: u64 = 64;
const PAGE_LEN: usize = 64;

/// Marks of a cluster, above the twelve bits of its count.
pub(super) mod mark {
    /// A table of which there is one: header, L1, refcounts, snapshots, bitmaps.
    pub(crate) const META: u16 = 1 << 15;
    /// An L2 table.
    pub(crate) const TABLE: u16 = 1 << 14;
    /// An active entry refers to it with the copied flag.
    pub(crate) const COPIED: u16 = 1 << 13;
    /// An active entry refers to it without the copied flag.
    pub(crate) const BARE: u16 = 1 << 12;
}

/// The largest count in the page itself; more goes into `overflow`.
const IN_PAGE: u16 = (1 << 12) - 1;

/// The counts of all clusters.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: HashMap<u64, usize>,
    slab: Vec<[u16; PAGE_LEN]>,
    /// What is above [`IN_PAGE`].
    overflow: HashMap<u64, u64>,
    last: Option<(u64, usize)>,
}

/// One cluster's references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    pub(super) count: u64,
    pub(super) marks: u16,
}

impl Counts {
    /// Adds `times` references and marks to a cluster; returns what was there before.
    pub(super) fn add(&mut self, cluster: u64, times: u64, marks: u16) -> Used {
        let Some(slot) = self.slot(cluster) else {
            return Used::default();
        };
        let before = *slot;
        let room = u64::from(IN_PAGE - (before & IN_PAGE));
        let fits = times.min(room);
        // At most IN_PAGE, so that it stays below the marks.
        *slot = (before | marks) + u16::try_from(fits).unwrap_or(0);
        let mut over = 0;
        if before & IN_PAGE == IN_PAGE {
            over = self.overflow.get(&cluster).copied().unwrap_or(0);
        }
        if times > fits {
            let sum = over.saturating_add(times - fits);
            self.overflow.insert(cluster, sum);
        }
        Used {
            count: u64::from(before & IN_PAGE).saturating_add(over),
            marks: before & !IN_PAGE,
        }
    }

    /// The page of 64 clusters from `first` on, if any of them is used.
    pub(super) fn page(&self, first: u64) -> Option<&[u16; PAGE_LEN]> {
        self.slab.get(*self.pages.get(&(first / PAGE))?)
    }

    /// Reads one number of a page.
    pub(super) fn used(&self, cluster: u64, raw: u16) -> Used {
        let mut count = u64::from(raw & IN_PAGE);
        if raw & IN_PAGE == IN_PAGE {
            count = count.saturating_add(self.overflow.get(&cluster).copied().unwrap_or(0));
        }
        Used {
            count,
            marks: raw & !IN_PAGE,
        }
    }

    /// The first clusters of all pages, in order.
    pub(super) fn firsts(&self) -> Vec<u64> {
        let mut firsts: Vec<u64> = self.pages.keys().map(|page| page * PAGE).collect();
        firsts.sort_unstable();
        firsts
    }

    fn slot(&mut self, cluster: u64) -> Option<&mut u16> {
        let page = cluster / PAGE;
        let at = match self.last {
            Some((last, at)) if last == page => at,
            _ => {
                let slab = &mut self.slab;
                *self.pages.entry(page).or_insert_with(|| {
                    slab.push([0; PAGE_LEN]);
                    slab.len() - 1
                })
            }
        };
        self.last = Some((page, at));
        let within = usize::try_from(cluster % PAGE).ok()?;
        self.slab.get_mut(at)?.get_mut(within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_beyond_their_twelve_bits() {
        let mut counts = Counts::default();
        let mut sum = 0;
        for times in [1, 4000, 94, 1, 5000, 1 << 40] {
            let before = counts.add(70, times, mark::BARE);
            assert_eq!(before.count, sum);
            sum += times;
        }
        assert_eq!(counts.add(71, 1, mark::META).count, 0);
        let page = counts.page(64).unwrap();
        assert_eq!(counts.used(70, page[6]).count, sum);
        assert_eq!(counts.used(70, page[6]).marks, mark::BARE);
        let next = counts.used(71, page[7]);
        assert_eq!((next.count, next.marks), (1, mark::META));
        assert_eq!(counts.used(72, page[8]), Used::default());
        assert!(counts.page(0).is_none());
        counts.add(u64::MAX, 1, 0);
        assert_eq!(counts.firsts(), [64, u64::MAX - 63]);
    }
}
