//! Extent trees ("Extent Tree"): at most five levels of indexes above runs of blocks.

use std::borrow::Cow;

use super::crc;
use super::fields::{index, le16, le32, wide};
use super::inode::Inode;
use super::run::Run;
use super::store::Store;
use crate::guest::{Fault, Result};

const MAGIC: u16 = 0xf30a;
/// Levels of indexes at most.
const MAX_DEPTH: u16 = 5;
/// Bytes of a node's header, and of each of its entries.
const ENTRY: usize = 12;
/// A longer extent was allocated and not written; its length counts from here.
const LONGEST: u16 = 32768;
/// Files end before this block.
const END: u64 = 1 << 32;

/// A node of the tree: its depth, and the bytes of its entries.
struct Node<'a> {
    depth: u16,
    entries: &'a [u8],
}

impl<'a> Node<'a> {
    /// Takes a node apart; `want` is the depth that its parent calls for.
    fn parse(bytes: &'a [u8], want: Option<u16>) -> Result<Self> {
        let [magic, count, most, depth] = [0, 2, 4, 6].map(|at| le16(bytes, at));
        if magic != MAGIC {
            return Err(Fault::damaged("an extent node without its magic number"));
        }
        if depth > MAX_DEPTH || want.is_some_and(|want| want != depth) {
            return Err(Fault::damaged(format!("an extent node of depth {depth}")));
        }
        let end = (usize::from(count) + 1) * ENTRY;
        let fits = count <= most && (usize::from(most) + 1) * ENTRY <= bytes.len();
        match bytes.get(ENTRY..end) {
            Some(entries) if fits => Ok(Self { depth, entries }),
            _ => Err(Fault::damaged(format!(
                "an extent node with {count} of {most} entries"
            ))),
        }
    }

    /// The entries with their first blocks, which must ascend within `low..high`.
    fn entries(&self, low: u64, high: u64) -> Result<Vec<(u64, &'a [u8])>> {
        let all = self.entries.chunks_exact(ENTRY);
        let all: Vec<_> = all.map(|e| (u64::from(le32(e, 0)), e)).collect();
        let ascending = all.is_sorted_by(|(a, _), (b, _)| a < b);
        let first = all.first().is_none_or(|(block, _)| *block >= low);
        let last = all.last().is_none_or(|(block, _)| *block < high);
        match ascending && first && last {
            true => Ok(all),
            false => Err(Fault::damaged("an extent node is out of order")),
        }
    }
}

/// The blocks of `inode` from `logical` on.
pub(super) fn find(store: &Store, inode: &Inode, logical: u64) -> Result<Run> {
    if logical >= END {
        return Ok(Run::hole(END));
    }
    let mut bytes = Cow::Borrowed(inode.body());
    let (mut low, mut high, mut want) = (0, END, None);
    // The depth falls with every step, so this ends.
    loop {
        let node = Node::parse(&bytes, want)?;
        let entries = node.entries(low, high)?;
        let behind = entries.partition_point(|(block, _)| *block <= logical);
        let next = entries.get(behind).map_or(high, |(block, _)| *block);
        let here = behind.checked_sub(1).and_then(|n| entries.get(n));
        let Some((start, entry)) = here else {
            return Ok(Run::hole(next - logical));
        };
        if node.depth == 0 {
            return in_leaf(store, *start, entry, logical, next);
        }
        let child = wide(le16(entry, 8).into(), le32(entry, 4));
        let block = store.block(child)?;
        verify(store, inode, &block)?;
        (low, high, want) = (*start, next, Some(node.depth - 1));
        bytes = Cow::Owned(block);
    }
}

/// The rest of the extent that begins at `start`, or of the hole behind it up to `next`.
fn in_leaf(store: &Store, start: u64, entry: &[u8], logical: u64, next: u64) -> Result<Run> {
    let (unwritten, len) = match le16(entry, 4) {
        len @ ..=LONGEST => (false, u64::from(len)),
        len => (true, u64::from(len - LONGEST)),
    };
    let at = wide(le16(entry, 6).into(), le32(entry, 8));
    store.within(at, len)?;
    if len == 0 || start + len > next {
        return Err(Fault::damaged(format!(
            "an extent of {len} blocks at {start} where {next} is the next"
        )));
    }
    let inner = logical - start;
    if inner >= len {
        return Ok(Run::hole(next - logical));
    }
    Ok(match unwritten {
        true => Run::hole(len - inner),
        false => Run::data(at + inner, len - inner),
    })
}

/// Checks the checksum behind a node's room for entries.
fn verify(store: &Store, inode: &Inode, block: &[u8]) -> Result<()> {
    let end = (index(le16(block, 4)) + 1) * ENTRY;
    let Some(covered) = block.get(..end).filter(|_| store.sb.metadata_csum()) else {
        return Ok(());
    };
    if end + 4 > block.len() || crc::crc32c(inode.seed, covered) != le32(block, end) {
        return Err(Fault::damaged("the checksum of an extent node is wrong"));
    }
    Ok(())
}
