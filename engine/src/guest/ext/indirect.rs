//! Block maps of ext2 and ext3 ("Direct/Indirect Block Addressing"): twelve blocks in the inode,
//! then up to three levels of blocks full of numbers.

use super::fields::{index, le32};
use super::inode::Inode;
use super::run::Run;
use super::store::Store;
use crate::guest::Result;

/// Blocks that the inode names itself.
const DIRECT: u64 = 12;

/// The blocks of `inode` from `logical` on.
pub(super) fn find(store: &Store, inode: &Inode, logical: u64) -> Result<Run> {
    let body = inode.body();
    let numbers = store.block_size() / 4;
    if logical < DIRECT {
        let direct = body.get(..index(DIRECT * 4)).unwrap_or_default();
        return row(store, direct, logical);
    }
    let (mut rest, mut span) = (logical - DIRECT, 1);
    for level in 1..=3 {
        span *= numbers;
        if rest >= span {
            rest -= span;
            continue;
        }
        let mut number = le32(body, index((DIRECT + level - 1) * 4));
        // One block of numbers after the other, each for a smaller span.
        loop {
            if number == 0 {
                return Ok(Run::hole(span - rest));
            }
            let block = store.block(number.into())?;
            span /= numbers;
            if span <= 1 {
                return row(store, &block, rest);
            }
            number = le32(&block, index(rest / span * 4));
            rest %= span;
        }
    }
    // Behind what three levels reach there is nothing.
    Ok(Run::hole(u64::MAX - logical))
}

/// The blocks of one row of numbers from `from` on.
fn row(store: &Store, numbers: &[u8], from: u64) -> Result<Run> {
    let skip = index(from.saturating_mul(4));
    let numbers = numbers.get(skip..).unwrap_or_default();
    let mut numbers = numbers.chunks_exact(4).map(|n| u64::from(le32(n, 0)));
    let first = numbers.next().unwrap_or(0);
    let len = match first {
        0 => numbers.take_while(|n| *n == 0).count(),
        _ => numbers
            .zip(first + 1..)
            .take_while(|(n, want)| n == want)
            .count(),
    };
    let len = len as u64 + 1;
    if first == 0 {
        return Ok(Run::hole(len));
    }
    store.within(first, len)?;
    Ok(Run::data(first, len))
}
