//! READ and BLOCK_STATUS of a growing image: held parts over the file over the parent.

use sendense_formats::GuestRange;
use sendense_formats::qcow2::{Mapping, Target};
use sendense_nbd::{Done, NbdError, StatusExtent};

use super::core::Core;
use super::gate::Mode;
use super::lock;
use crate::io::Io;
use crate::pool::IoBuf;

/// `base:allocation`: a hole that reads as zero.
const HOLE_AND_ZERO: u32 = 3;
/// Guest bytes that one BLOCK_STATUS looks at: walking the slots of a disk of many TiB would hold
/// up the thread. A client asks on from where the reply ends.
const LOOK: u64 = 64 << 30;

impl Core {
    pub(super) async fn read(&self, io: &Io, at: u64, buf: IoBuf) -> Done<IoBuf> {
        let range = GuestRange::new(at, buf.len() as u64).filter(|r| r.end().get() <= self.size);
        let result = match range {
            None => Err(NbdError::Invalid),
            Some(_) => self.life.readable(),
        };
        let (Some(range), Ok(())) = (range, result) else {
            return Done { result, buf };
        };
        let first = at >> self.cluster.bits();
        let end = self.cluster.count(range.end().get());
        let turn = self.gate.enter(first, end - first, Mode::Shared).await;
        let (mut buf, mut result) = self.read_below(io, range, buf).await;
        for cluster in self.held.among(first..end) {
            let Some(cell) = self.held.get(cluster) else {
                continue;
            };
            let start = self.byte(cluster);
            let from = start.max(at);
            let until = (start + self.cluster.bytes()).min(range.end().get());
            if let Some(to) = part(buf.as_mut(), at, GuestRange::between(from, until)) {
                let offset = usize::try_from(from - start).unwrap_or(usize::MAX);
                lock(&cell).copy_to(offset, to);
            }
        }
        drop(turn);
        if result.is_ok() {
            result = self.life.readable();
        }
        Done { result, buf }
    }

    /// What the file and the parent say, with a turn.
    async fn read_below(
        &self,
        io: &Io,
        range: GuestRange,
        mut buf: IoBuf,
    ) -> (IoBuf, Result<(), NbdError>) {
        let maps = self.split(range);
        if let [only] = maps.as_slice()
            && !matches!(only.target, Target::Zero { .. })
        {
            return self.fetch(io, *only, buf).await;
        }
        for map in maps {
            let Some(to) = part(buf.as_mut(), range.start().get(), map.range) else {
                return (buf, Err(NbdError::Invalid));
            };
            if matches!(map.target, Target::Zero { .. }) {
                to.fill(0);
                continue;
            }
            let (piece, result) = self.fetch(io, map, IoBuf::heap(to.len())).await;
            if result.is_err() {
                return (buf, result);
            }
            to.copy_from_slice(piece.as_ref());
        }
        (buf, Ok(()))
    }

    /// The map of a range, with what nobody holds as zero.
    fn split(&self, range: GuestRange) -> Vec<Mapping> {
        let maps = lock(&self.plan).writer.map(range, usize::MAX);
        let parent_end = self.parent_end();
        let mut out = Vec::with_capacity(maps.len());
        for map in maps {
            if map.target != Target::Unallocated {
                out.push(map);
                continue;
            }
            let (start, end) = (map.range.start().get(), map.range.end().get());
            let border = parent_end.clamp(start, end);
            let parts = [
                (start, border, Target::Unallocated),
                (border, end, Target::Zero { host: None }),
            ];
            for (start, end, target) in parts {
                if start < end {
                    let range = GuestRange::between(start, end);
                    out.push(Mapping { range, target });
                }
            }
        }
        out
    }

    /// Reads one run of data, from the file or from the parent, into a buffer of its length. Data of
    /// ours that cannot be read poisons: nobody would know it from sound data once it is sealed.
    async fn fetch(&self, io: &Io, map: Mapping, buf: IoBuf) -> (IoBuf, Result<(), NbdError>) {
        match (map.target, &self.parent) {
            (Target::Data { host }, _) => {
                let (buf, result) = self.file.read_at(io, host.get(), buf).await;
                let poison = |e| self.life.poison(self.doing("reading back data"), &e);
                (buf, result.map_err(poison))
            }
            (Target::Unallocated, Some(parent)) => {
                let at = map.range.start().get();
                let (buf, result) = parent.read(io, at, buf).await;
                (buf, result.map_err(|_| NbdError::Io))
            }
            _ => (buf, Err(NbdError::Io)),
        }
    }

    /// The extents of `base:allocation`: what lies in the parent counts as data.
    pub(super) fn status(
        &self,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        self.life.readable()?;
        let range = GuestRange::new(at, len).filter(|r| r.end().get() <= self.size);
        let range = range.ok_or(NbdError::Invalid)?;
        let range = range.intersect(GuestRange::between(at, at.saturating_add(LOOK)));
        let bits = self.cluster.bits();
        let first = at >> bits;
        let held = self
            .held
            .among(first..self.cluster.count(range.end().get()));
        let mut held = held.into_iter().peekable();
        let mut out: Vec<StatusExtent> = Vec::new();
        let mut at = at;
        let end = range.end().get();
        // Runs of the map merge in the answer, so a few more of them are asked for each time.
        while at < end && out.len() <= max_extents {
            let rest = GuestRange::between(at, end);
            let maps = lock(&self.plan).writer.map(rest, 64);
            if maps.is_empty() {
                break;
            }
            for map in maps {
                at = map.range.end().get();
                let mut from = map.range.start().get();
                let zero_from = match map.target {
                    Target::Zero { .. } => from,
                    Target::Unallocated => self.parent_end().clamp(from, at),
                    Target::Data { .. } | Target::Compressed { .. } => at,
                };
                push(&mut out, zero_from - from, 0);
                from = zero_from;
                while let Some(cluster) = held.next_if(|c| c << bits < at) {
                    let start = (cluster << bits).clamp(from, at);
                    let until = ((cluster + 1) << bits).clamp(from, at);
                    push(&mut out, start - from, HOLE_AND_ZERO);
                    push(&mut out, until - start, 0);
                    from = until;
                }
                push(&mut out, at - from, HOLE_AND_ZERO);
            }
        }
        out.truncate(max_extents.max(1));
        Ok(out)
    }
}

fn push(out: &mut Vec<StatusExtent>, len: u64, flags: u32) {
    match out.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.flags == flags => last.len += len,
        _ => out.push(StatusExtent { len, flags }),
    }
}

/// The bytes of a range in a buffer that begins at guest byte `at`.
fn part(buf: &mut [u8], at: u64, range: GuestRange) -> Option<&mut [u8]> {
    let from = usize::try_from(range.start().get().checked_sub(at)?).ok()?;
    let len = usize::try_from(range.len()).ok()?;
    buf.get_mut(from..from.checked_add(len)?)
}
