//! A logical volume's bytes: runs that lie on one physical volume, or in turns on several.

use std::sync::Arc;

use crate::guest::blocks::inside;
use crate::guest::{Blocks, Fault, Result};

/// A run of a logical volume.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Bytes.
    pub(super) len: u64,
    /// Bytes on one leg before it is the next one's turn; not used with one leg.
    pub(super) stripe: u64,
    /// Where it lies: the bytes, and the first one there. Never empty.
    pub(super) legs: Vec<(Arc<dyn Blocks>, u64)>,
}

/// Runs in a row.
#[derive(Debug, Clone)]
pub(super) struct Mapped {
    size: u64,
    /// With the first byte of each, ascending.
    runs: Vec<(u64, Run)>,
}

impl Mapped {
    /// Puts runs in a row.
    ///
    /// # Errors
    /// `Damaged` where a run goes past the end of a leg, or its numbers make no sense.
    pub(super) fn new(runs: Vec<Run>) -> Result<Self> {
        let mut placed = Vec::with_capacity(runs.len());
        let mut size = 0u64;
        for run in runs {
            let count = run.legs.len() as u64;
            let odd =
                count == 0 || !run.len.is_multiple_of(count) || (count > 1 && run.stripe == 0);
            let end = size.checked_add(run.len).filter(|_| !odd);
            let end = end.ok_or_else(|| Fault::damaged("a segment's numbers make no sense"))?;
            for (leg, at) in &run.legs {
                let last = at.checked_add(run.len / count);
                if last.is_none_or(|last| last > leg.size()) {
                    return Err(Fault::damaged(format!(
                        "a segment of {} bytes at {at} goes past the end of its physical volume \
                         of {}",
                        run.len / count,
                        leg.size()
                    )));
                }
            }
            placed.push((size, run));
            size = end;
        }
        Ok(Self { size, runs: placed })
    }

    /// Where the byte at `at` lies, and for how long that goes on.
    fn locate(&self, at: u64) -> Option<(&Arc<dyn Blocks>, u64, u64)> {
        let behind = self.runs.partition_point(|(start, _)| *start <= at);
        let (start, run) = self.runs.get(behind.checked_sub(1)?)?;
        let within = at.checked_sub(*start)?;
        let left = run.len.checked_sub(within).filter(|left| *left > 0)?;
        if let [(leg, first)] = run.legs.as_slice() {
            return Some((leg, first.checked_add(within)?, left));
        }
        let count = run.legs.len() as u64;
        let per_leg = run.len.checked_div(count)?;
        let chunk = within.checked_div(run.stripe)?;
        let skip = within.checked_rem(run.stripe)?;
        let turn = usize::try_from(chunk.checked_rem(count)?).ok()?;
        let (leg, first) = run.legs.get(turn)?;
        let on_leg = (chunk / count).checked_mul(run.stripe)?.checked_add(skip)?;
        let left = left
            .min(run.stripe - skip)
            .min(per_leg.checked_sub(on_leg)?);
        Some((leg, first.checked_add(on_leg)?, left))
    }
}

impl Blocks for Mapped {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(self.size, at, buf.len())?;
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let found = self.locate(at).filter(|(_, _, left)| *left > 0);
            let (leg, there, left) =
                found.ok_or_else(|| Fault::damaged("a byte of the logical volume lies nowhere"))?;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at_mut_checked(len).unwrap_or_default();
            leg.read_at(there, now)?;
            at = at.saturating_add(len as u64);
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_from_the_leg_whose_turn_it_is() {
        let leg = |base: u8| -> Arc<dyn Blocks> {
            Arc::new((0..100u8).map(|n| base + n).collect::<Vec<u8>>())
        };
        let (a, b) = (leg(0), leg(100));
        let mapped = Mapped::new(vec![
            Run {
                len: 3,
                stripe: 0,
                legs: vec![(Arc::clone(&b), 7)],
            },
            Run {
                len: 12,
                stripe: 4,
                legs: vec![(Arc::clone(&a), 10), (Arc::clone(&b), 20)],
            },
        ])
        .unwrap();
        // The second run ends within a stripe on each leg.
        let want = [107, 108, 109, 10, 11, 12, 13, 120, 121, 122, 123, 14, 15];
        assert_eq!(mapped.bytes(0, 13).unwrap(), want);
        assert_eq!(mapped.bytes(2, 3).unwrap(), [109, 10, 11]);
        assert_eq!(mapped.size(), 15);
        assert!(mapped.bytes(14, 2).is_err());
        let past = Run {
            len: 2,
            stripe: 0,
            legs: vec![(a, 99)],
        };
        assert!(Mapped::new(vec![past]).is_err());
    }
}
