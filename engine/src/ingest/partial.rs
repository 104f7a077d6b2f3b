//! Parts of clusters: gathered in the accumulator, filled from below, written out.
//!
//! Below a held cluster lies what the guest saw before: its own cluster in the file, zero, or the
//! parent. So a part of a cluster that is on disk already is read, changed and written again, and
//! several such parts cost that only once.

use std::ops::Range;

use sendense_formats::qcow2::Slot;
use sendense_nbd::NbdError;

use super::core::Core;
use super::gate::Mode;
use super::held::{Cell, Room, Source};
use super::lock;
use crate::io::Io;
use crate::pool::IoBuf;

impl Core {
    /// Takes in a part of one cluster. On success it is held, or in the file.
    pub(super) async fn merge(&self, io: &Io, at: u64, source: Source<'_>) -> Result<(), NbdError> {
        let cluster = at >> self.cluster.bits();
        let offset = usize::try_from(at - self.byte(cluster)).unwrap_or(usize::MAX);
        loop {
            let changed = self.held.changed.notified();
            let room = match self.held.room(cluster) {
                Room::Held => None,
                Room::Free(room) => Some(room),
                Room::Evict(victim) => {
                    self.evict(io, victim.cluster).await?;
                    continue;
                }
                Room::Wait => {
                    changed.await;
                    self.life.healthy()?;
                    continue;
                }
            };
            let turn = self.gate.enter(cluster, 1, Mode::Alone).await;
            self.life.healthy()?;
            if matches!(source, Source::Zeros(_))
                && self.held.get(cluster).is_none()
                && self.reads_zero(cluster)
            {
                return Ok(());
            }
            // Held when we asked, gone when our turn came: ask again.
            let Some(cell) = self.held.open(cluster, room) else {
                continue;
            };
            let full = lock(&cell).put(offset, source, self.inside(cluster));
            if full {
                self.leave(io, cluster, &cell).await?;
            }
            drop(turn);
            return Ok(());
        }
    }

    /// Writes out a held cluster, if it is still held when its turn comes.
    pub(super) async fn evict(&self, io: &Io, cluster: u64) -> Result<(), NbdError> {
        let turn = self.gate.enter(cluster, 1, Mode::Alone).await;
        self.life.healthy()?;
        if let Some(cell) = self.held.get(cluster) {
            self.leave(io, cluster, &cell).await?;
        }
        drop(turn);
        Ok(())
    }

    /// Whether a cluster that is not held is zero beyond doubt, without reading.
    fn reads_zero(&self, cluster: u64) -> bool {
        match self.slot(cluster) {
            Slot::Zero => true,
            Slot::Data(_) => false,
            Slot::Unallocated => self.byte(cluster) >= self.parent_end(),
        }
    }

    /// Fills and writes a held cluster, with its turn, and lets it go. It goes even on an error:
    /// the export is poisoned then, and nobody may wait for room that never comes.
    async fn leave(&self, io: &Io, cluster: u64, cell: &Cell) -> Result<(), NbdError> {
        let (mut buf, gaps) = {
            let mut partial = lock(cell);
            let gaps = partial.known.gaps(self.inside(cluster));
            (std::mem::replace(&mut partial.buf, IoBuf::heap(0)), gaps)
        };
        let unfinished = self.life.unfinished();
        let mut result = self.fill(io, cluster, &mut buf, &gaps).await;
        if result.is_ok() {
            let (_, stored) = self.store(io, cluster, 1, buf, 0).await;
            result = stored.map(drop);
        }
        unfinished.done();
        self.held.remove(cluster..cluster + 1);
        result
    }

    /// Puts into the gaps of a cluster what lies below.
    async fn fill(
        &self,
        io: &Io,
        cluster: u64,
        buf: &mut IoBuf,
        gaps: &[Range<usize>],
    ) -> Result<(), NbdError> {
        let (Some(first), Some(last)) = (gaps.first(), gaps.last()) else {
            return Ok(());
        };
        let span = first.start..last.end;
        let Some(below) = self.below(io, cluster, span.clone()).await? else {
            // Gaps are zero in the buffer from the start.
            return Ok(());
        };
        for gap in gaps {
            let from = gap.start - span.start..(gap.end - span.start).min(below.len());
            if let Some(from) = below.as_ref().get(from) {
                let to = gap.start..gap.start + from.len();
                if let Some(to) = buf.as_mut().get_mut(to) {
                    to.copy_from_slice(from);
                }
            }
        }
        Ok(())
    }

    /// What the guest saw in a part of a cluster before: `None` is zero, and so is what a shorter
    /// answer leaves out. A failure to read it poisons, since what was promised cannot be kept.
    async fn below(
        &self,
        io: &Io,
        cluster: u64,
        span: Range<usize>,
    ) -> Result<Option<IoBuf>, NbdError> {
        let at = self.byte(cluster) + span.start as u64;
        match self.slot(cluster) {
            Slot::Zero => Ok(None),
            Slot::Data(host) => {
                let host = host.get() + span.start as u64;
                let buf = IoBuf::heap(span.len());
                let (buf, result) = self.file.read_at(io, host, buf).await;
                match result {
                    Ok(()) => Ok(Some(buf)),
                    Err(e) => Err(self.life.poison(self.doing("reading back data"), &e)),
                }
            }
            Slot::Unallocated => {
                let left = self.parent_end().saturating_sub(at);
                let len = usize::try_from(left).map_or(span.len(), |left| left.min(span.len()));
                let Some(parent) = self.parent.as_ref().filter(|_| len > 0) else {
                    return Ok(None);
                };
                let (buf, result) = parent.read(io, at, IoBuf::heap(len)).await;
                match result {
                    Ok(()) => Ok(Some(buf)),
                    Err(e) => {
                        let what = format!("{}: reading the parent: {e}", self.label);
                        Err(self.life.poison_with(false, what))
                    }
                }
            }
        }
    }
}
