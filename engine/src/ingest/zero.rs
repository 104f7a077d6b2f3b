//! WRITE_ZEROES and TRIM: the same here, since what is trimmed must not show the parent again.
//! Whole clusters are zeroed in the plan, at once and without I/O, however many there are.

use sendense_formats::ClusterIndex;
use sendense_nbd::NbdError;

use super::core::{Core, Cut};
use super::gate::Mode;
use super::held::Source;
use super::lock;
use crate::io::Io;

impl Core {
    pub(super) async fn zero(&self, io: &Io, at: u64, len: u64) -> Result<(), NbdError> {
        let (_active, change) = self.begin(at, len)?;
        let result = self.zero_parts(io, at, at + len).await;
        if result.is_ok() {
            self.count(&self.counters.zero, len);
        }
        self.finish(change, result)
    }

    async fn zero_parts(&self, io: &Io, at: u64, end: u64) -> Result<(), NbdError> {
        let mut cut = self.cut(at, end);
        if end == self.size {
            // Nothing of the last cluster lies behind the end.
            cut.last = self.cluster.count(end).max(cut.first);
        }
        let Cut { first, last } = cut;
        let (head_end, tail_start) = if first < last {
            (self.byte(first), self.byte(last).min(end))
        } else {
            let border = self.byte(first).clamp(at, end);
            (border, border)
        };
        for (from, until) in [(at, head_end), (tail_start, end)] {
            let len = usize::try_from(until - from).unwrap_or(0);
            if len > 0 {
                self.merge(io, from, Source::Zeros(len)).await?;
            }
        }
        if first == last {
            return Ok(());
        }
        let turn = self.gate.enter(first, last - first, Mode::Alone).await;
        self.life.healthy()?;
        let planned = lock(&self.plan)
            .writer
            .plan_zero(ClusterIndex::new(first), last - first);
        planned.map_err(|e| self.plan_failed(&e))?;
        self.held.remove(first..last);
        drop(turn);
        Ok(())
    }
}
