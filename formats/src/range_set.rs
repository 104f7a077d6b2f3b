//! A set of byte ranges: sorted, merged, never overlapping, never empty.
//!
//! Every operation costs the logarithm of the set plus what it removes. The set grows with the
//! number of separate ranges; who feeds it from outside bounds that number
//! ([`len`](RangeSet::len)).

use std::collections::BTreeMap;

use crate::range::GuestRange;

/// A set of byte ranges of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end (exclusive).
    ranges: BTreeMap<u64, u64>,
    total: u64,
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
            total: 0,
        }
    }

    /// How many separate ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many bytes are in the set.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.total = 0;
    }

    /// Adds a range, merging it with what it touches.
    pub fn insert(&mut self, range: GuestRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start().get(), range.end().get());
        // The only older range that starts before us and can reach us is the last such one.
        if let Some((&s, &e)) = self.ranges.range(..start).next_back()
            && e >= start
        {
            start = s;
        }
        while let Some((&s, &e)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&s);
            self.total -= e - s;
            end = end.max(e);
        }
        self.total += end - start;
        self.ranges.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: GuestRange) {
        if range.is_empty() {
            return;
        }
        let (start, end) = (range.start().get(), range.end().get());
        if let Some((&s, &e)) = self.ranges.range(..start).next_back()
            && e > start
        {
            self.ranges.insert(s, start);
            self.total -= e - start;
            if e > end {
                self.ranges.insert(end, e);
                self.total += e - end;
                return;
            }
        }
        while let Some((&s, &e)) = self.ranges.range(start..end).next() {
            self.ranges.remove(&s);
            self.total -= e - s;
            if e > end {
                self.ranges.insert(end, e);
                self.total += e - end;
            }
        }
    }

    /// Whether every byte of `range` is in the set; true for an empty one.
    pub fn contains(&self, range: GuestRange) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start().get())
                .next_back()
                .is_some_and(|(_, &e)| e >= range.end().get())
    }

    /// Whether at least one byte of `range` is in the set.
    pub fn intersects(&self, range: GuestRange) -> bool {
        self.overlapping(range).next().is_some()
    }

    /// The ranges of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = GuestRange> + '_ {
        self.ranges
            .iter()
            .filter_map(|(&s, &e)| GuestRange::new(s, e - s))
    }

    /// The parts of `range` that are in the set, in order.
    pub fn overlapping(&self, range: GuestRange) -> impl Iterator<Item = GuestRange> + '_ {
        let start = range.start().get();
        let first = self
            .ranges
            .range(..start)
            .next_back()
            .filter(|&(_, &e)| e > start);
        first
            .into_iter()
            .chain(self.ranges.range(start..range.end().get()))
            .filter_map(|(&s, &e)| GuestRange::new(s, e - s))
            .map(move |r| r.intersect(range))
            .filter(|r| !r.is_empty())
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn missing_in(&self, range: GuestRange) -> impl Iterator<Item = GuestRange> + '_ {
        let mut at = range.start().get();
        let end = range.end().get();
        self.overlapping(range)
            .map(|r| (r.start().get(), r.end().get()))
            .chain(std::iter::once((end, end)))
            .filter_map(move |(s, e)| {
                let gap = GuestRange::new(at, s.saturating_sub(at));
                at = e;
                gap.filter(|g| !g.is_empty())
            })
    }
}

impl FromIterator<GuestRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = GuestRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const N: usize = 64;

    fn r(start: u64, len: u64) -> GuestRange {
        GuestRange::new(start, len).unwrap()
    }

    fn runs(bits: &[bool], want: bool) -> Vec<GuestRange> {
        let mut out: Vec<GuestRange> = Vec::new();
        for (i, _) in bits.iter().enumerate().filter(|(_, b)| **b == want) {
            let i = i as u64;
            match out.last_mut() {
                Some(last) if last.end().get() == i => {
                    *last = r(last.start().get(), last.len() + 1)
                }
                _ => out.push(r(i, 1)),
            }
        }
        out
    }

    #[test]
    fn neighbours_merge_and_a_hole_splits() {
        let mut set = RangeSet::new();
        set.insert(r(0, 10));
        set.insert(r(10, 10));
        assert_eq!((set.len(), set.total()), (1, 20));
        set.remove(r(5, 5));
        assert_eq!(set.iter().collect::<Vec<_>>(), [r(0, 5), r(10, 10)]);
        assert!(set.contains(r(10, 10)) && !set.contains(r(4, 2)));
        assert!(set.contains(r(7, 0)));
    }

    #[test]
    fn the_last_byte_of_u64_is_no_trap() {
        let mut set = RangeSet::new();
        set.insert(r(u64::MAX - 1, 1));
        assert!(set.contains(r(u64::MAX - 1, 1)));
        assert_eq!(set.missing_in(r(0, u64::MAX)).count(), 1);
    }

    proptest! {
        #[test]
        fn like_an_array_of_bits(ops in prop::collection::vec((any::<bool>(), 0..N, 0..20usize), 0..60), at in 0..N, n in 0..N) {
            let mut bits = [false; N];
            let mut set = RangeSet::new();
            for (add, start, len) in ops {
                let len = len.min(N - start);
                bits[start..start + len].fill(add);
                let range = r(start as u64, len as u64);
                if add { set.insert(range) } else { set.remove(range) }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&bits, true));
                prop_assert_eq!(set.total(), bits.iter().filter(|b| **b).count() as u64);
            }
            let n = n.min(N - at);
            let window = r(at as u64, n as u64);
            prop_assert_eq!(set.contains(window), bits[at..at + n].iter().all(|b| *b));
            prop_assert_eq!(set.intersects(window), bits[at..at + n].iter().any(|b| *b));
            let shift = |v: Vec<GuestRange>| v.into_iter().map(|x| r(x.start().get() + at as u64, x.len())).collect::<Vec<_>>();
            prop_assert_eq!(set.missing_in(window).collect::<Vec<_>>(), shift(runs(&bits[at..at + n], false)));
            prop_assert_eq!(set.overlapping(window).collect::<Vec<_>>(), shift(runs(&bits[at..at + n], true)));
        }
    }
}
