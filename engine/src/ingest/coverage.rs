//! Which bytes of the disk were sent, and which were answered with an error and not sent again.
//!
//! Whole clusters are bits (in blocks that cost nothing while they are empty or full), broken
//! ones byte ranges whose number is bounded. Both grow with what was touched, not with the disk.

use sendense_formats::{ChangeList, ClusterSize, GuestRange, RangeSet};

use super::failed::{Failed, MAX_FAILED, Moment};

/// Clusters in one block of bits.
const BLOCK: u64 = 1 << 15;
const WORDS: usize = 1 << 9;
/// Byte ranges within broken clusters that are kept at most; more is refused.
const MAX_FRAGMENTS: usize = 1 << 21;
/// Missing ranges that are looked at one by one.
const MAX_MISSING: usize = 1 << 12;
/// Missing ranges that are named.
const NAMED: usize = 64;

/// What must have been sent before a disk is sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CoverageRule {
    /// All of the disk.
    #[default]
    Whole,
    /// These ranges.
    Declared(ChangeList),
    /// Whatever the mover thinks right: a sparse full, an incremental without a list.
    Free,
}

/// The ranges that keep a disk from being sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) first: Vec<GuestRange>,
    pub(super) more: u64,
}

#[derive(Debug)]
enum Block {
    Empty,
    Full,
    Bits { words: Box<[u64]>, set: u64 },
}

/// The coverage of one disk.
#[derive(Debug)]
pub(super) struct Coverage {
    rule: CoverageRule,
    cluster: ClusterSize,
    size: u64,
    clusters: u64,
    blocks: Vec<Block>,
    /// Clusters whose bit is set.
    whole: u64,
    fragments: RangeSet,
    failed: Failed,
    /// Refused while frozen: counts as failed once the disk is open again.
    late: RangeSet,
}

impl Coverage {
    pub(super) fn new(rule: CoverageRule, cluster: ClusterSize, size: u64) -> Self {
        let clusters = cluster.count(size);
        let mut blocks = Vec::new();
        let count = usize::try_from(clusters.div_ceil(BLOCK)).unwrap_or(usize::MAX);
        blocks.resize_with(count, || Block::Empty);
        Self {
            rule,
            cluster,
            size,
            clusters,
            blocks,
            whole: 0,
            fragments: RangeSet::new(),
            failed: Failed::default(),
            late: RangeSet::new(),
        }
    }

    /// Sets what must be sent; only before anything was.
    pub(super) fn set_rule(&mut self, rule: CoverageRule) -> bool {
        let untouched = self.whole == 0 && self.fragments.is_empty() && self.failed.is_empty();
        if untouched {
            self.rule = rule;
        }
        untouched
    }

    /// Admits a change of a range, and tells the moment of its beginning; `None` where there is no
    /// room for it.
    pub(super) fn admit(&self, range: GuestRange) -> Option<Moment> {
        self.has_room(range).then(|| self.failed.moment())
    }

    /// Whether a range may be taken in. Once too many broken clusters are kept, only what breaks
    /// no further one.
    fn has_room(&self, range: GuestRange) -> bool {
        if self.fragments.len() + 2 <= MAX_FRAGMENTS {
            return true;
        }
        let mends = |at: u64| {
            let near = GuestRange::between(at.saturating_sub(1), at.saturating_add(1));
            at.is_multiple_of(self.cluster.bytes())
                || at == self.size
                || self.is_set(at >> self.cluster.bits())
                || self.fragments.intersects(near)
        };
        mends(range.start().get()) && mends(range.end().get())
    }

    /// Bytes that were sent.
    pub(super) fn total(&self) -> u64 {
        let last = self.clusters.checked_sub(1).filter(|c| self.is_set(*c));
        let short = last.map_or(0, |_| self.clusters * self.cluster.bytes() - self.size);
        self.whole * self.cluster.bytes() - short + self.fragments.total()
    }

    /// A range was sent by a change that began then, and is taken in whatever happens later.
    pub(super) fn cover(&mut self, range: GuestRange, begun: Moment) {
        self.failed.make_good(range, begun);
        let (start, end) = (range.start().get(), range.end().get().min(self.size));
        if start >= end {
            return;
        }
        let first = self.cluster.count(start);
        let last = if end == self.size {
            self.clusters
        } else {
            end >> self.cluster.bits()
        };
        if first < last {
            if !self.fragments.is_empty() {
                self.fragments.remove(self.bytes(first, last));
            }
            self.set(first, last);
            self.cover_part(start, self.bytes(first, first).start().get());
            self.cover_part(self.bytes(first, last).end().get(), end);
        } else {
            // Within one cluster, or over the border of two.
            let border = (first << self.cluster.bits()).clamp(start, end);
            self.cover_part(start, border);
            self.cover_part(border, end);
        }
    }

    /// A range within one cluster.
    fn cover_part(&mut self, start: u64, end: u64) {
        let cluster = start >> self.cluster.bits();
        if start >= end || self.is_set(cluster) {
            return;
        }
        self.fragments.insert(GuestRange::between(start, end));
        let whole = self.bytes(cluster, cluster + 1);
        if self.fragments.contains(whole) {
            self.fragments.remove(whole);
            self.set(cluster, cluster + 1);
        }
    }

    /// A range was answered with an error, or cut off.
    pub(super) fn fail(&mut self, range: GuestRange) {
        self.failed.insert(range);
    }

    /// A range was refused because the disk is frozen.
    pub(super) fn refuse(&mut self, range: GuestRange) {
        insert_bounded(&mut self.late, range);
    }

    /// The disk is open again.
    pub(super) fn thaw(&mut self) {
        for range in std::mem::take(&mut self.late).iter() {
            self.failed.insert(range);
        }
    }

    /// What is missing by the rule, and what failed; `None` where the disk may be sealed.
    pub(super) fn missing(&self) -> Option<Missing> {
        let mut found = RangeSet::new();
        let mut more = 0;
        let mut add = |range: GuestRange| {
            if found.len() < MAX_MISSING {
                found.insert(range);
            } else {
                more += 1;
            }
        };
        match &self.rule {
            CoverageRule::Whole => self.missing_in(GuestRange::between(0, self.size), &mut add),
            CoverageRule::Declared(list) => {
                let disk = GuestRange::between(0, self.size);
                for range in list.iter() {
                    self.missing_in(range.intersect(disk), &mut add);
                }
            }
            CoverageRule::Free => {}
        }
        self.failed.iter().for_each(&mut add);
        if found.is_empty() {
            return None;
        }
        let first: Vec<GuestRange> = found.iter().take(NAMED).collect();
        more += (found.len() - first.len()) as u64;
        Some(Missing { first, more })
    }

    fn missing_in(&self, range: GuestRange, found: &mut impl FnMut(GuestRange)) {
        let bits = self.cluster.bits();
        let end = self.cluster.count(range.end().get()).min(self.clusters);
        let mut at = range.start().get() >> bits;
        let mut open: Option<GuestRange> = None;
        while at < end {
            let from = self.next(at, end, false);
            let until = self.next(from, end, true);
            let gap = self.bytes(from, until).intersect(range);
            for part in self.fragments.missing_in(gap) {
                match &mut open {
                    Some(o) if o.end() == part.start() => {
                        *o = GuestRange::between(o.start().get(), part.end().get());
                    }
                    _ => open.replace(part).into_iter().for_each(&mut *found),
                }
            }
            at = until;
        }
        open.into_iter().for_each(found);
    }

    /// The bytes of clusters, clipped to the disk.
    fn bytes(&self, first: u64, end: u64) -> GuestRange {
        let byte = |c: u64| c.saturating_mul(self.cluster.bytes()).min(self.size);
        GuestRange::between(byte(first), byte(end))
    }

    fn block(&self, cluster: u64) -> &Block {
        let index = usize::try_from(cluster / BLOCK).ok();
        index
            .and_then(|i| self.blocks.get(i))
            .unwrap_or(&Block::Empty)
    }

    fn is_set(&self, cluster: u64) -> bool {
        match self.block(cluster) {
            Block::Empty => false,
            Block::Full => true,
            Block::Bits { words, .. } => word(words, cluster) >> (cluster % 64) & 1 == 1,
        }
    }

    /// The first cluster from `at` on, before `end`, whose bit is `wanted`; else `end`.
    fn next(&self, mut at: u64, end: u64, wanted: bool) -> u64 {
        while at < end {
            match self.block(at) {
                Block::Full if wanted => return at,
                Block::Empty if !wanted => return at,
                Block::Full | Block::Empty => at = (at / BLOCK + 1) * BLOCK,
                Block::Bits { words, .. } => {
                    let word = word(words, at);
                    let word = if wanted { word } else { !word } >> (at % 64);
                    if word != 0 {
                        return (at + u64::from(word.trailing_zeros())).min(end);
                    }
                    at = (at / 64 + 1) * 64;
                }
            }
        }
        end
    }

    fn set(&mut self, first: u64, end: u64) {
        let mut at = first;
        while at < end {
            let start = at / BLOCK * BLOCK;
            let len = BLOCK.min(self.clusters - start);
            let until = end.min(start + BLOCK);
            let index = usize::try_from(at / BLOCK).ok();
            if let Some(block) = index.and_then(|i| self.blocks.get_mut(i)) {
                self.whole += block.set(at - start, until - start, len);
            }
            at = until;
        }
    }
}

impl Block {
    /// Sets bits within a block of `len` and tells how many were new.
    fn set(&mut self, from: u64, until: u64, len: u64) -> u64 {
        let before = match self {
            Self::Full => return 0,
            Self::Empty => 0,
            Self::Bits { set, .. } => *set,
        };
        if from == 0 && until == len {
            *self = Self::Full;
            return len - before;
        }
        if matches!(self, Self::Empty) {
            let words = vec![0; WORDS].into_boxed_slice();
            *self = Self::Bits { words, set: 0 };
        }
        let Self::Bits { words, set } = self else {
            return 0;
        };
        for (i, word) in (0_u64..).zip(words.iter_mut()) {
            let (low, high) = (from.max(i * 64), until.min(i * 64 + 64));
            if low < high {
                let mask = u64::MAX >> (64 - (high - low)) << (low - i * 64);
                *set += u64::from((mask & !*word).count_ones());
                *word |= mask;
            }
        }
        let after = *set;
        if after == len {
            *self = Self::Full;
        }
        after - before
    }
}

fn word(words: &[u64], cluster: u64) -> u64 {
    let index = usize::try_from(cluster % BLOCK / 64).ok();
    index.and_then(|i| words.get(i)).copied().unwrap_or(0)
}

/// Inserts; once there are too many ranges, takes all together in one.
fn insert_bounded(set: &mut RangeSet, range: GuestRange) {
    set.insert(range);
    if set.len() > MAX_FAILED {
        let first = set.iter().next().map_or(0, |r| r.start().get());
        let end = set.iter().last().map_or(0, |r| r.end().get());
        set.insert(GuestRange::between(first, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn r(start: u64, len: u64) -> GuestRange {
        GuestRange::new(start, len).unwrap()
    }

    fn coverage(rule: CoverageRule, size: u64) -> Coverage {
        Coverage::new(rule, ClusterSize::from_bits(9).unwrap(), size)
    }

    fn cover(c: &mut Coverage, range: GuestRange) {
        let begun = c.admit(range).unwrap();
        c.cover(range, begun);
    }

    #[test]
    fn a_failed_range_must_come_again_under_every_rule() {
        for rule in [CoverageRule::Free, CoverageRule::Whole] {
            let mut c = coverage(rule, 5000);
            cover(&mut c, r(0, 5000));
            assert_eq!(c.missing(), None);
            c.fail(r(100, 50));
            assert_eq!(c.missing().unwrap().first, [r(100, 50)]);
            cover(&mut c, r(90, 30));
            assert_eq!(c.missing().unwrap().first, [r(120, 30)]);
            cover(&mut c, r(120, 30));
            assert_eq!(c.missing(), None);
            c.refuse(r(7, 1));
            assert_eq!(c.missing(), None);
            c.thaw();
            assert_eq!(c.missing().unwrap().first, [r(7, 1)]);
        }
    }

    #[test]
    fn a_declared_list_asks_for_its_ranges_alone() {
        let list = ChangeList::from_unsorted([r(1000, 24), r(3000, 4000)]);
        let mut c = coverage(CoverageRule::Declared(list), 5000);
        assert_eq!(c.missing().unwrap().first, [r(1000, 24), r(3000, 2000)]);
        cover(&mut c, r(1000, 24));
        cover(&mut c, r(3000, 1500));
        assert_eq!(c.missing().unwrap().first, [r(4500, 500)]);
        assert!(!c.set_rule(CoverageRule::Free));
        cover(&mut c, r(4400, 600));
        assert_eq!(c.missing(), None);
    }

    #[test]
    fn many_missing_ranges_are_counted_not_named() {
        let mut c = coverage(CoverageRule::Whole, 1 << 20);
        for i in 0..200 {
            cover(&mut c, r(i * 4096, 2048));
        }
        let missing = c.missing().unwrap();
        assert_eq!((missing.first.len(), missing.more), (64, 136));
    }

    #[test]
    fn a_huge_disk_covered_at_once_takes_no_memory() {
        let mut c = coverage(CoverageRule::Whole, 1 << 44);
        cover(&mut c, r(0, 1 << 44));
        assert_eq!(c.total(), 1 << 44);
        assert!(c.blocks.iter().all(|b| matches!(b, Block::Full)));
    }

    proptest! {
        #[test]
        fn like_an_array_of_bits(size in 3000..6000usize, ops in prop::collection::vec((0..6000usize, 1..2500usize, any::<bool>()), 0..40)) {
            let mut c = coverage(CoverageRule::Whole, size as u64);
            let mut bits = vec![false; size];
            for (start, len, edge) in ops {
                let start = if edge { start / 512 * 512 } else { start }.min(size - 1);
                let len = if edge { len.next_multiple_of(512) } else { len }.min(size - start);
                bits[start..start + len].fill(true);
                cover(&mut c, r(start as u64, len as u64));
                prop_assert_eq!(c.total(), bits.iter().filter(|b| **b).count() as u64);
                let mut seen = vec![true; size];
                if let Some(missing) = c.missing() {
                    prop_assert_eq!(missing.more, 0);
                    prop_assert!(missing.first.windows(2).all(|p| p[0].end() < p[1].start()));
                    for m in missing.first {
                        let at = |o: sendense_formats::GuestOffset| usize::try_from(o.get()).unwrap();
                        seen[at(m.start())..at(m.end())].fill(false);
                    }
                }
                prop_assert!(seen == bits);
            }
        }
    }
}
