//! Which bytes of one cluster are known: a short sorted list.

use std::ops::Range;

/// Sorted, merged, never empty byte ranges within a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intervals(Vec<Range<usize>>);

impl Intervals {
    /// How many separate ranges.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a range.
    pub(super) fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let from = self.0.partition_point(|r| r.end < range.start);
        let until = self.0.partition_point(|r| r.start <= range.end);
        let mut merged = range;
        for old in self.0.get(from..until).unwrap_or_default() {
            merged.start = merged.start.min(old.start);
            merged.end = merged.end.max(old.end);
        }
        self.0.splice(from..until, [merged]);
    }

    /// Whether all of `0 .. len` is known.
    pub(super) fn covers(&self, len: usize) -> bool {
        self.0.first().is_some_and(|r| r.start == 0 && r.end >= len)
    }

    /// The known ranges.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().cloned()
    }

    /// The unknown parts of `0 .. len`.
    pub(super) fn gaps(&self, len: usize) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut gaps = Vec::new();
        for known in &self.0 {
            if known.start.min(len) > at {
                gaps.push(at..known.start.min(len));
            }
            at = at.max(known.end);
        }
        if at < len {
            gaps.push(at..len);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn like_an_array_of_bits(adds in prop::collection::vec((0..64usize, 0..20usize), 0..20)) {
            let mut bits = [false; 64];
            let mut set = Intervals::default();
            for (start, len) in adds {
                let end = (start + len).min(64);
                bits[start..end].fill(true);
                set.insert(start..end);
                prop_assert!(set.0.windows(2).all(|p| p[0].end < p[1].start));
                let mut seen = [false; 64];
                set.iter().for_each(|r| seen[r].fill(true));
                prop_assert_eq!(seen, bits);
                let mut seen = [true; 64];
                set.gaps(64).into_iter().for_each(|r| seen[r].fill(false));
                prop_assert_eq!(seen, bits);
                prop_assert_eq!(set.covers(40), bits[..40].iter().all(|b| *b));
            }
        }
    }
}
