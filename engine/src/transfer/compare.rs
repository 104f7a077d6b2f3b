//! Two disks, byte for byte, reading only what is not known to be zero in both.

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use sendense_formats::GuestRange;

use super::padded::Padded;
use super::walk::Walk;
use super::{DiskReader, Progress, Span};
use crate::Result;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// Blocks of each disk in flight.
const PARALLEL: usize = 4;
/// Bytes of a block.
const BLOCK: u64 = 1 << 20;

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// The first byte that differs. A shorter disk reads as zero behind its end.
    pub first_difference: Option<u64>,
    /// The sizes of the first and the second disk.
    pub sizes: (u64, u64),
}

impl Comparison {
    /// Whether both read the same, the longer one's tail being zero.
    pub fn same_content(&self) -> bool {
        self.first_difference.is_none()
    }

    /// Whether they are the same disk: content and size.
    pub fn identical(&self) -> bool {
        self.same_content() && self.sizes.0 == self.sizes.1
    }
}

/// Bytes that were looked at, and the first that differs.
type Looked = (u64, Option<u64>);

/// Compares up to the first difference.
pub async fn compare(
    io: &Io,
    a: &dyn DiskReader,
    b: &dyn DiskReader,
    progress: &Progress,
) -> Result<Comparison> {
    let sizes = (a.size(), b.size());
    let whole = sizes.0.max(sizes.1);
    progress.begin(whole);
    let mut result = Comparison {
        first_difference: None,
        sizes,
    };
    let (a, b) = (Padded::new(a, whole), Padded::new(b, whole));
    // Whatever is zero in `a` is looked at in `b`'s own map: data there must be read.
    let mut walk = Walk::new(&a, GuestRange::new(0, whole), 1, BLOCK);
    let mut flying: FuturesOrdered<LocalBoxFuture<'_, Result<Looked>>> = FuturesOrdered::new();
    let mut more = true;
    loop {
        while more && flying.len() < PARALLEL {
            progress.check()?;
            match walk.next().await? {
                Some(span) => flying.push_back(Box::pin(block(io, &a, &b, span))),
                None => more = false,
            }
        }
        let Some(done) = flying.next().await else {
            return Ok(result);
        };
        let (len, difference) = done?;
        progress.same(len);
        if difference.is_some() {
            result.first_difference = difference;
            // Nothing in flight is dropped while storage still fills it.
            while flying.next().await.is_some() {}
            return Ok(result);
        }
    }
}

async fn block(io: &Io, a: &Padded<'_>, b: &Padded<'_>, span: Span) -> Result<Looked> {
    let len = span.range.len();
    let mut walk = Walk::new(b, [span.range], 1, BLOCK);
    while let Some(other) = walk.next().await? {
        if span.zero && other.zero {
            continue;
        }
        let at = other.range.start().get();
        let left = fetch(io, a, other.range, span.zero).await?;
        let right = fetch(io, b, other.range, other.zero).await?;
        let (left, right) = (left.as_ref(), right.as_ref());
        if left != right {
            let first = left
                .iter()
                .zip(right)
                .position(|(l, r)| l != r)
                .unwrap_or(0);
            return Ok((len, Some(at + first as u64)));
        }
    }
    Ok((len, None))
}

async fn fetch(io: &Io, disk: &Padded<'_>, range: GuestRange, zero: bool) -> Result<IoBuf> {
    let len = usize::try_from(range.len().min(BLOCK)).unwrap_or(0);
    let buf = IoBuf::heap(len);
    if zero {
        return Ok(buf);
    }
    let (buf, result) = disk.read(io, range.start().get(), buf).await;
    result?;
    Ok(buf.unwrap_or_else(|| IoBuf::heap(0)))
}
