//! The copy itself: a walk, a few blocks in flight, zeroes kept thin.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sendense_formats::GuestRange;

use super::padded::Padded;
use super::walk::Walk;
use super::{DiskReader, DiskSink, Progress, Span, zeroes};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{LocalBoxFuture, WriteRun};
use crate::{Error, ErrorKind, Result};

/// How a copy runs.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Blocks in flight.
    pub parallel: usize,
    /// Bytes of one block; a power of two, at least the sink's unit.
    pub block: u64,
    /// Look for zero in what was read, in units of this many bytes (a power of two); `None` to
    /// leave that to the sink.
    pub find_zeroes: Option<u64>,
    /// Only these ranges, sorted and not overlapping; `None` for the whole disk.
    pub ranges: Option<Vec<GuestRange>>,
    /// What the sink is known to read as before: blocks that are the same are not written.
    /// Compared in units of `compare_unit`.
    pub compare_unit: u64,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            parallel: 8,
            block: 1 << 20,
            find_zeroes: Some(65536),
            ranges: None,
            compare_unit: 65536,
        }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Bytes that were written as data.
    pub written: u64,
    /// Bytes that were made zero.
    pub zero: u64,
    /// Bytes that were the same already.
    pub same: u64,
}

impl Copied {
    fn add(&mut self, other: Self) {
        self.written += other.written;
        self.zero += other.zero;
        self.same += other.same;
    }
}

/// Copies, and completes the sink. `base` is what the sink reads as before, where only differences
/// are to be written.
///
/// On an error or cancel everything in flight is awaited first: no buffer is in use any more.
pub async fn copy(
    io: &Io,
    reader: &dyn DiskReader,
    base: Option<&dyn DiskReader>,
    sink: &dyn DiskSink,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Copied> {
    let size = reader.size();
    let whole = GuestRange::new(0, size).into_iter().collect();
    let wanted: Vec<GuestRange> = options.ranges.clone().unwrap_or(whole);
    if wanted.iter().any(|r| r.end().get() > size) {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("a range ends behind the disk's {size} bytes"),
        ));
    }
    progress.begin(wanted.iter().map(|r| r.len()).sum());
    let base = base.map(|b| Padded::new(b, size));
    let base = base.as_ref().map(|b| b as &dyn DiskReader);
    let mover = Mover {
        io,
        reader,
        base,
        sink,
        options,
    };
    let copied = mover.run(wanted, progress).await?;
    progress.check()?;
    sink.finish(io).await?;
    Ok(copied)
}

struct Mover<'a> {
    io: &'a Io,
    reader: &'a dyn DiskReader,
    base: Option<&'a dyn DiskReader>,
    sink: &'a dyn DiskSink,
    options: &'a CopyOptions,
}

/// Up to two buffers: one for the block, one for the block to compare with.
type Buffers = (Option<IoBuf>, Option<IoBuf>);

impl Mover<'_> {
    async fn run(&self, wanted: Vec<GuestRange>, progress: &Progress) -> Result<Copied> {
        let unit = self.sink.unit().max(1);
        let block = self.options.block.max(unit);
        let mut walk = Walk::new(self.reader, wanted, unit, block);
        let mut flying: FuturesUnordered<LocalBoxFuture<'_, (Buffers, Result<Copied>)>> =
            FuturesUnordered::new();
        let mut free: Vec<Buffers> = Vec::new();
        let mut total = Copied::default();
        let mut result = Ok(());
        let mut more = true;
        loop {
            while more && result.is_ok() && flying.len() < self.options.parallel.max(1) {
                let next = match progress.check() {
                    Ok(()) => walk.next().await,
                    Err(e) => Err(e),
                };
                match next {
                    Ok(Some(span)) => {
                        let buffers = free.pop().unwrap_or_default();
                        flying.push(Box::pin(self.block(span, block, buffers)));
                    }
                    Ok(None) => more = false,
                    Err(e) => result = Err(e),
                }
            }
            let Some((buffers, done)) = flying.next().await else {
                break;
            };
            free.push(buffers);
            match done {
                Ok(copied) => {
                    progress.wrote(copied.written);
                    progress.zeroed(copied.zero);
                    progress.same(copied.same);
                    total.add(copied);
                }
                // The first error is the cause; the walk goes no further.
                Err(e) if result.is_ok() => result = Err(e),
                Err(_) => {}
            }
        }
        result.map(|()| total)
    }

    async fn block(&self, span: Span, block: u64, buffers: Buffers) -> (Buffers, Result<Copied>) {
        let range = span.range;
        if span.zero && self.base.is_none() {
            let result = self.sink.zero(self.io, range).await;
            let copied = Copied {
                zero: range.len(),
                ..Copied::default()
            };
            return (buffers, result.map(|()| copied));
        }
        if span.zero {
            return self.zero_over_base(range, block, buffers).await;
        }
        let (own, other) = buffers;
        let len = usize::try_from(range.len()).unwrap_or(0);
        let buf = sized(own, len);
        let (buf, result) = self.reader.read(self.io, range.start().get(), buf).await;
        let buf = match (buf, result) {
            (Some(buf), Ok(())) => buf,
            (buf, Err(e)) => return ((buf, other), Err(e)),
            (None, Ok(())) => return ((None, other), Err(lost())),
        };
        match self.base {
            None => {
                let at = range.start().get();
                let runs = match self.options.find_zeroes {
                    Some(unit) => zeroes::split(buf.as_ref(), at, unit.max(self.sink.unit())),
                    None => vec![(0..len, false)],
                };
                let (buf, result) = self.put(at, buf, runs, 0).await;
                ((buf, other), result)
            }
            Some(base) => self.differences(base, range, buf, sized(other, len)).await,
        }
    }

    /// Writes the parts of a buffer as data or zero.
    async fn put(
        &self,
        at: u64,
        buf: IoBuf,
        parts: Vec<(std::ops::Range<usize>, bool)>,
        same: u64,
    ) -> (Option<IoBuf>, Result<Copied>) {
        let mut copied = Copied {
            same,
            ..Copied::default()
        };
        let mut runs = Vec::new();
        for (part, zero) in parts {
            let start = at.saturating_add(part.start as u64);
            let len = part.len() as u64;
            if zero {
                copied.zero += len;
                let Some(range) = GuestRange::new(start, len) else {
                    continue;
                };
                if let Err(e) = self.sink.zero(self.io, range).await {
                    return (Some(buf), Err(e));
                }
            } else {
                copied.written += len;
                runs.push(WriteRun { at: start, part });
            }
        }
        if runs.is_empty() {
            return (Some(buf), Ok(copied));
        }
        let (buf, result) = self.sink.write(self.io, buf, runs).await;
        (buf, result.map(|()| copied))
    }

    /// Writes what differs from the base.
    async fn differences(
        &self,
        base: &dyn DiskReader,
        range: GuestRange,
        buf: IoBuf,
        other: IoBuf,
    ) -> (Buffers, Result<Copied>) {
        let at = range.start().get();
        let (other, result) = base.read(self.io, at, other).await;
        let other = match (other, result) {
            (Some(other), Ok(())) => other,
            (other, result) => return ((Some(buf), other), Err(result.err().unwrap_or_else(lost))),
        };
        let unit = self.options.compare_unit.max(self.sink.unit());
        let (mut parts, mut same) = (Vec::new(), 0);
        for (part, zero) in zeroes::split_each(buf.as_ref(), at, unit) {
            if buf.as_ref().get(part.clone()) == other.as_ref().get(part.clone()) {
                same += part.len() as u64;
            } else {
                zeroes::push(&mut parts, part, zero);
            }
        }
        let (buf, result) = self.put(at, buf, parts, same).await;
        ((buf, Some(other)), result)
    }

    /// Zero in the source: only where the base is not known to be zero it has to be said.
    async fn zero_over_base(
        &self,
        range: GuestRange,
        block: u64,
        buffers: Buffers,
    ) -> (Buffers, Result<Copied>) {
        let mut copied = Copied::default();
        let Some(base) = self.base else {
            return (buffers, Ok(copied));
        };
        let mut walk = Walk::new(base, [range], self.sink.unit().max(1), block);
        let mut said = 0;
        loop {
            match walk.next().await {
                Ok(Some(Span { zero: true, .. })) => {}
                Ok(Some(span)) => {
                    if let Err(e) = self.sink.zero(self.io, span.range).await {
                        return (buffers, Err(e));
                    }
                    said += span.range.len();
                }
                Ok(None) => break,
                Err(e) => return (buffers, Err(e)),
            }
        }
        copied.zero = said;
        copied.same = range.len() - said;
        (buffers, Ok(copied))
    }
}

/// A buffer of `len` bytes: the old one where it fits, which for whole blocks it does.
fn sized(old: Option<IoBuf>, len: usize) -> IoBuf {
    match old {
        Some(buf) if buf.len() == len => buf,
        _ => IoBuf::heap(len),
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Io, "a buffer was lost in a read")
}
