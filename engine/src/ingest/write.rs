//! WRITE: whole clusters go straight from the receive buffer to the file, the rest through the
//! accumulator.

use std::ops::Range;

use sendense_formats::ClusterIndex;
use sendense_formats::qcow2::{Outcome, WritePlan};
use sendense_nbd::{Done, NbdError};

use super::core::{Core, Cut, Plan};
use super::gate::Mode;
use super::held::Source;
use super::lock;
use super::zeros::all_zero;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::WriteRun;

/// What goes to the file for one buffer.
#[derive(Debug, Default)]
struct Batch {
    plans: Vec<WritePlan>,
    runs: Vec<WriteRun>,
    /// Host cluster and checksum of each cluster.
    sums: Vec<(u64, u32)>,
}

impl Core {
    pub(super) async fn write(&self, io: &Io, at: u64, buf: IoBuf) -> Done<IoBuf> {
        let len = buf.len();
        let (_active, change) = match self.begin(at, len as u64) {
            Ok(begun) => begun,
            Err(e) => {
                return Done {
                    result: Err(e),
                    buf,
                };
            }
        };
        let (buf, result) = self.write_parts(io, at, buf).await;
        if result.is_ok() {
            self.count(&self.counters.transferred, len as u64);
        }
        let result = self.finish(change, result);
        Done { result, buf }
    }

    async fn write_parts(&self, io: &Io, at: u64, buf: IoBuf) -> (IoBuf, Result<(), NbdError>) {
        let end = at + buf.len() as u64;
        let Cut { first, last } = self.cut(at, end);
        let (head_end, tail_start) = if first < last {
            (self.byte(first), self.byte(last))
        } else {
            // Within one cluster, or over the border of two.
            let border = self.byte(first).clamp(at, end);
            (border, border)
        };
        for part in [at..head_end, tail_start..end] {
            let Some(bytes) = slice(at, &part, buf.as_ref()) else {
                continue;
            };
            if let Err(e) = self.merge(io, part.start, Source::Bytes(bytes)).await {
                return (buf, Err(e));
            }
        }
        if first == last {
            return (buf, Ok(()));
        }
        let skip = usize::try_from(head_end - at).unwrap_or(usize::MAX);
        let turn = self.gate.enter(first, last - first, Mode::Alone).await;
        let (buf, stored) = self.store(io, first, last - first, buf, skip).await;
        let stored = stored.map(|zero| {
            // What was held of these clusters is older; a flush may wait for it until now.
            self.held.remove(first..last);
            self.count(&self.counters.zero, zero * self.cluster.bytes());
        });
        drop(turn);
        (buf, stored)
    }

    /// Stores whole clusters that lie in `buf` from `skip` on, with their turn: zeroes in the
    /// plan, data in the file, and visible only when it is there. Tells how many are zero.
    pub(super) async fn store(
        &self,
        io: &Io,
        first: u64,
        count: u64,
        buf: IoBuf,
        skip: usize,
    ) -> (IoBuf, Result<u64, NbdError>) {
        if let Err(e) = self.life.healthy() {
            return (buf, Err(e));
        }
        let size = self.cluster.bytes_usize();
        let clusters = buf.as_ref().get(skip..).unwrap_or_default();
        let sums: Vec<Option<u32>> = clusters
            .chunks_exact(size)
            .zip(0..count)
            .map(|(bytes, _)| (!all_zero(bytes)).then(|| crc32fast::hash(bytes)))
            .collect();
        let planned = {
            let mut plan = lock(&self.plan);
            let batch = plan.batch(first, skip, &sums, size);
            batch.map(|b| (b, plan.writer.data_end().get()))
        };
        let (batch, data_end) = match planned {
            Ok(planned) => planned,
            Err(e) => return (buf, Err(self.plan_failed(&e))),
        };
        let data = batch.sums.len() as u64;
        let zero = sums.len() as u64 - data;
        if batch.runs.is_empty() {
            return (buf, Ok(zero));
        }
        self.ahead.data_ends_at(data_end, &self.file);
        let unfinished = self.life.unfinished();
        let (buf, result) = self.file.write_runs(io, buf, batch.runs).await;
        let outcome = match result {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Failed,
        };
        let settled = lock(&self.plan).settle(batch.plans, &batch.sums, outcome);
        unfinished.done();
        if let Err(e) = result {
            let e = self.life.poison(self.doing("writing data"), &e);
            return (buf, Err(e));
        }
        self.count(&self.counters.written, data * self.cluster.bytes());
        let settled = settled.map_err(|e| self.plan_failed(&e));
        (buf, settled.map(|()| zero))
    }
}

impl Plan {
    /// Plans a buffer of clusters; `None` stands for a zero cluster.
    fn batch(
        &mut self,
        first: u64,
        skip: usize,
        sums: &[Option<u32>],
        size: usize,
    ) -> sendense_formats::Result<Batch> {
        let bits = self.writer.cluster().bits();
        let mut batch = Batch::default();
        let mut at = 0;
        for run in sums.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let cluster = first + at as u64;
            let count = run.len() as u64;
            if run.first().is_some_and(|s| s.is_none()) {
                self.writer.plan_zero(ClusterIndex::new(cluster), count)?;
                at += run.len();
                continue;
            }
            let plan = self.writer.plan_write(ClusterIndex::new(cluster), count)?;
            let mut crcs = run.iter().flatten();
            for part in &plan.runs {
                let from = skip + at * size;
                let len = usize::try_from(part.count).unwrap_or(usize::MAX);
                batch.runs.push(WriteRun {
                    at: part.host.get(),
                    part: from..from.saturating_add(len.saturating_mul(size)),
                });
                let host = part.host.get() >> bits;
                let hosts = host..host + part.count;
                batch.sums.extend(hosts.zip(crcs.by_ref().copied()));
                at += len;
            }
            batch.plans.push(plan);
        }
        Ok(batch)
    }

    fn settle(
        &mut self,
        plans: Vec<WritePlan>,
        sums: &[(u64, u32)],
        outcome: Outcome,
    ) -> sendense_formats::Result<()> {
        for plan in plans {
            self.writer.settle(plan, outcome)?;
        }
        if outcome == Outcome::Done {
            for (host, crc) in sums {
                self.checksums.set(*host, *crc);
            }
        }
        Ok(())
    }
}

/// The bytes of a part of a request; `None` where the part is empty.
fn slice<'a>(at: u64, part: &Range<u64>, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let from = usize::try_from(part.start.checked_sub(at)?).ok()?;
    let until = usize::try_from(part.end.checked_sub(at)?).ok()?;
    bytes.get(from..until).filter(|b| !b.is_empty())
}
