//! A disk seen with another size.

use sendense_formats::GuestRange;

use super::{DiskReader, Lent, Span};
use crate::Result;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// A disk with zeroes behind its end.
pub(super) struct Padded<'a>(&'a dyn DiskReader, u64);

impl<'a> Padded<'a> {
    /// The disk as one of `size` bytes: zero behind its own end, or cut.
    pub(super) fn new(disk: &'a dyn DiskReader, size: u64) -> Self {
        Self(disk, size)
    }
}

impl DiskReader for Padded<'_> {
    fn size(&self) -> u64 {
        self.1
    }

    fn spans(&self, range: GuestRange) -> LocalBoxFuture<'_, Result<Vec<Span>>> {
        Box::pin(async move {
            let size = self.0.size();
            let (start, end) = (range.start().get(), range.end().get());
            let cut = size.clamp(start, end);
            let mut spans = Vec::new();
            if let Some(inside) = GuestRange::new(start, cut - start).filter(|r| !r.is_empty()) {
                spans = self.0.spans(inside).await?;
            }
            if let Some(range) = GuestRange::new(cut, end - cut).filter(|r| !r.is_empty()) {
                spans.push(Span { range, zero: true });
            }
            Ok(spans)
        })
    }

    fn prepare(&self, range: GuestRange) {
        self.0.prepare(range);
    }

    fn read<'a>(&'a self, io: &'a Io, at: u64, mut buf: IoBuf) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            let there = self.0.size().saturating_sub(at);
            let there = usize::try_from(there).unwrap_or(usize::MAX);
            if there >= buf.len() {
                return self.0.read(io, at, buf).await;
            }
            buf.as_mut().fill(0);
            if there == 0 {
                return (Some(buf), Ok(()));
            }
            let (front, result) = self.0.read(io, at, IoBuf::heap(there)).await;
            if let (Some(front), Some(to)) = (front, buf.as_mut().get_mut(..there)) {
                to.copy_from_slice(front.as_ref());
            }
            (Some(buf), result)
        })
    }
}
