//! Which bytes of a READ have come: disjoint intervals, merged where they touch.

/// The most separate pieces that are kept; chunks that come in order are one.
const MAX_PIECES: usize = 4096;

/// A set of bytes.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Ascending, disjoint, not touching.
    pieces: Vec<(u64, u64)>,
}

impl Coverage {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds `start..end`; `false` where some of it was there before, or where it is one piece too
    /// many.
    pub(super) fn add(&mut self, start: u64, end: u64) -> bool {
        let next = self.pieces.partition_point(|(_, e)| *e <= start);
        if self.pieces.get(next).is_some_and(|(s, _)| *s < end) {
            return false;
        }
        let touches_next = self.pieces.get(next).is_some_and(|(s, _)| *s == end);
        let before = next.checked_sub(1);
        let touches_before = before
            .and_then(|i| self.pieces.get(i))
            .is_some_and(|(_, e)| *e == start);
        match (before.filter(|_| touches_before), touches_next) {
            (Some(i), true) => {
                let (_, far) = self.pieces.remove(next);
                self.set_end(i, far);
            }
            (Some(i), false) => self.set_end(i, end),
            (None, true) => {
                if let Some((s, _)) = self.pieces.get_mut(next) {
                    *s = start;
                }
            }
            (None, false) if self.pieces.len() >= MAX_PIECES => return false,
            (None, false) => self.pieces.insert(next, (start, end)),
        }
        true
    }

    /// Whether it is `start..end` and nothing else.
    pub(super) fn is_exactly(&self, start: u64, end: u64) -> bool {
        self.pieces == [(start, end)]
    }

    fn set_end(&mut self, i: usize, end: u64) {
        if let Some((_, e)) = self.pieces.get_mut(i) {
            *e = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_takes_each_byte_once(pieces in prop::collection::vec((0u64..60, 1u64..9), 1..30)) {
            let mut coverage = Coverage::default();
            let mut model = [false; 80];
            for (start, len) in pieces {
                let bytes = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
                let fresh = !model[bytes.clone()].iter().any(|b| *b);
                prop_assert_eq!(coverage.add(start, start + len), fresh);
                if fresh {
                    model[bytes].fill(true);
                }
            }
            let kept: u64 = coverage.pieces.iter().map(|(s, e)| e - s).sum();
            prop_assert_eq!(kept, model.iter().filter(|b| **b).count() as u64);
            let apart = coverage.pieces.windows(2).all(|w| w[0].1 < w[1].0);
            prop_assert!(apart);
        }
    }

    #[test]
    fn pieces_in_any_order_become_one_and_too_many_are_refused() {
        let mut c = Coverage::default();
        assert!(c.add(10, 20) && c.add(0, 5) && c.add(5, 10) && !c.add(19, 21));
        assert!(c.is_exactly(0, 20) && !c.is_exactly(0, 21));
        let mut c = Coverage::default();
        assert!((0..4096).all(|i| c.add(i * 2, i * 2 + 1)));
        assert!(!c.add(10_000, 10_001));
        assert!(c.add(1, 2));
    }
}
