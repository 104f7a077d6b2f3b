//! A chain as a disk to read from.

use std::sync::Arc;

use sendense_formats::GuestRange;

use super::{DiskReader, Lent, Span};
use crate::Result;
use crate::chain::Chain;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// Reads a chain.
#[derive(Debug, Clone)]
pub struct ChainReader(Arc<Chain>);

impl ChainReader {
    /// Of this chain.
    pub fn new(chain: Arc<Chain>) -> Self {
        Self(chain)
    }
}

impl DiskReader for ChainReader {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn spans(&self, range: GuestRange) -> LocalBoxFuture<'_, Result<Vec<Span>>> {
        Box::pin(async move {
            let mut spans: Vec<Span> = Vec::new();
            for piece in self.0.map_async(range).await? {
                push(&mut spans, piece.range, piece.content.is_zero());
            }
            Ok(spans)
        })
    }

    fn prepare(&self, range: GuestRange) {
        self.0.prefetch(range);
    }

    fn read<'a>(&'a self, io: &'a Io, at: u64, buf: IoBuf) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            let (buf, result) = self.0.read(io, at, buf).await;
            (Some(buf), result)
        })
    }
}

/// Appends, merging neighbours of one kind.
pub(super) fn push(spans: &mut Vec<Span>, range: GuestRange, zero: bool) {
    if let Some(last) = spans.last_mut()
        && last.zero == zero
        && last.range.end() == range.start()
        && let Some(joined) =
            GuestRange::new(last.range.start().get(), last.range.len() + range.len())
    {
        last.range = joined;
        return;
    }
    if !range.is_empty() {
        spans.push(Span { range, zero });
    }
}
