//! Ranges that were answered with an error, or cut off, and have to be sent again.
//!
//! Each keeps the number of its failure: only a change that began after it makes it good, since
//! what was in flight already may hold what the failed request was to replace.

use std::collections::BTreeMap;

use sendense_formats::GuestRange;

/// Ranges that are kept at most. More are taken together, and a hole in the middle of one is no
/// longer kept: both only ask for more.
pub(super) const MAX_FAILED: usize = 1 << 16;

/// When a change began: how many failures there were before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// The failed ranges of one disk.
#[derive(Debug, Default)]
pub(super) struct Failed {
    /// By first byte: the end, and the number of the failure. Disjoint, never empty.
    ranges: BTreeMap<u64, (u64, u64)>,
    /// Failures so far.
    count: u64,
}

impl Failed {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Now.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.count)
    }

    /// A range failed now.
    pub(super) fn insert(&mut self, range: GuestRange) {
        let (mut start, mut end) = (range.start().get(), range.end().get());
        if start >= end {
            return;
        }
        self.count += 1;
        if self.ranges.len() + 2 > MAX_FAILED {
            if let Some((first, _)) = self.ranges.first_key_value() {
                start = start.min(*first);
            }
            if let Some((_, (last, _))) = self.ranges.last_key_value() {
                end = end.max(*last);
            }
            self.ranges.clear();
        }
        self.cut(start, end, u64::MAX);
        self.ranges.insert(start, (end, self.count));
    }

    /// A change of the range that began then has succeeded.
    pub(super) fn make_good(&mut self, range: GuestRange, begun: Moment) {
        if !self.ranges.is_empty() {
            self.cut(range.start().get(), range.end().get(), begun.0);
        }
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = GuestRange> + '_ {
        self.ranges
            .iter()
            .map(|(start, (end, _))| GuestRange::between(*start, *end))
    }

    /// Takes out what lies in `start .. end` of the failures up to a number.
    fn cut(&mut self, start: u64, end: u64, newest: u64) {
        if start >= end {
            return;
        }
        let before = self.ranges.range(..start).next_back();
        let from = before
            .filter(|(_, (until, _))| *until > start)
            .map_or(start, |(first, _)| *first);
        let hit: Vec<(u64, u64, u64)> = self
            .ranges
            .range(from..end)
            .filter(|(_, (_, number))| *number <= newest)
            .map(|(first, (until, number))| (*first, *until, *number))
            .collect();
        for (first, until, number) in hit {
            let (left, right) = (first < start, until > end);
            if left && right && self.ranges.len() >= MAX_FAILED {
                continue;
            }
            self.ranges.remove(&first);
            if left {
                self.ranges.insert(first, (start, number));
            }
            if right {
                self.ranges.insert(end, (until, number));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_change_that_began_later_makes_a_failure_good() {
        let mut failed = Failed::default();
        let before = failed.moment();
        failed.insert(GuestRange::between(100, 200));
        let between = failed.moment();
        failed.insert(GuestRange::between(150, 160));
        failed.make_good(GuestRange::between(0, 1000), before);
        assert_eq!(failed.iter().map(GuestRange::len).sum::<u64>(), 100);
        failed.make_good(GuestRange::between(0, 1000), between);
        assert_eq!(
            failed.iter().collect::<Vec<_>>(),
            [GuestRange::between(150, 160)]
        );
        failed.make_good(GuestRange::between(0, 1000), failed.moment());
        assert!(failed.is_empty());
    }

    #[test]
    fn their_number_is_bounded_whatever_is_sent() {
        let mut failed = Failed::default();
        let many = 2 * MAX_FAILED as u64;
        for i in 0..many {
            failed.insert(GuestRange::between(i * 10, i * 10 + 5));
            assert!(failed.ranges.len() <= MAX_FAILED);
        }
        failed.insert(GuestRange::between(0, many * 10));
        for i in 0..many {
            let now = failed.moment();
            failed.make_good(GuestRange::between(i * 10 + 3, i * 10 + 4), now);
            assert!(failed.ranges.len() <= MAX_FAILED);
        }
        assert!(!failed.is_empty());
        failed.make_good(GuestRange::between(0, many * 10), failed.moment());
        assert!(failed.is_empty());
    }

    proptest! {
        #[test]
        fn like_an_array_of_numbers(
            ops in prop::collection::vec((0..60_u64, 0..20_u64, any::<bool>(), 0..4_u64), 0..40),
        ) {
            let mut failed = Failed::default();
            let mut model = [0; 80];
            for (start, len, fails, ago) in ops {
                let range = GuestRange::between(start, start + len);
                let span = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
                if fails {
                    failed.insert(range);
                    model[span].fill(failed.count);
                } else {
                    let begun = Moment(failed.count.saturating_sub(ago));
                    failed.make_good(range, begun);
                    model[span].iter_mut().filter(|n| **n <= begun.0).for_each(|n| *n = 0);
                }
                let mut seen = [0; 80];
                for (first, (until, number)) in &failed.ranges {
                    let span = usize::try_from(*first).unwrap()..usize::try_from(*until).unwrap();
                    prop_assert!(!span.is_empty() && seen[span.clone()].iter().all(|n| *n == 0));
                    seen[span].fill(*number);
                }
                prop_assert_eq!(seen, model);
            }
        }
    }
}
