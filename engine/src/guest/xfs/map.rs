//! Where the blocks of a fork stand: a row of extents, or a tree of such rows ("Data Extents").

use super::fields::{be16, be64, index};
use super::inode::{Fork, Format};
use super::store::{Seal, Store};
use crate::guest::{Blocks, Fault, Result};

/// Bytes of an extent, and of a key with its pointer.
const RECORD: usize = 16;
/// Bytes in front of the records of a tree's block, and of the root in the inode.
const HEAD: usize = 72;
const ROOT_HEAD: usize = 4;
/// A tree is lower: it holds no more extents than fit in 2^54 blocks.
const DEEPEST: u16 = 12;

const SEAL: Seal = Seal {
    what: "a block of an extent tree",
    crc: 64,
    place: 24,
    uuid: 40,
    owner: 56,
};

/// Blocks of a fork in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The byte on the volume; `None` where nothing was ever written: it reads zero.
    pub(super) at: Option<u64>,
    /// How many blocks, 1 at least.
    pub(super) len: u64,
}

/// The blocks from `logical` on.
///
/// # Errors
/// `Damaged` where the fork's map makes no sense.
pub(super) fn find(store: &Store, fork: &Fork<'_>, logical: u64) -> Result<Run> {
    let place = |fault: Fault| fault.at(format!("inode {}", fork.inode));
    match fork.format {
        Format::Local => Err(Fault::damaged("content within the inode has no blocks")),
        Format::Extents => {
            let records = index(fork.extents).checked_mul(RECORD);
            match records.and_then(|len| fork.body.get(..len)) {
                Some(row) => in_row(store, row, logical, u64::MAX),
                None => Err(Fault::damaged(format!(
                    "{} extents do not fit in the inode",
                    fork.extents
                ))),
            }
        }
        Format::Tree => in_tree(store, fork, logical),
    }
    .map_err(place)
}

fn in_tree(store: &Store, fork: &Fork<'_>, logical: u64) -> Result<Run> {
    let (height, count) = (be16(fork.body, 0), be16(fork.body, 2));
    if !(1..=DEEPEST).contains(&height) {
        return Err(Fault::damaged(format!(
            "a tree of extents {height} levels high"
        )));
    }
    let mut next = below(fork.body, ROOT_HEAD, count, logical)?;
    let mut end = u64::MAX;
    for level in (0..height).rev() {
        let (child, bound) = next;
        end = end.min(bound);
        let Some(child) = child else {
            return Ok(hole(logical, end));
        };
        let at = store.sb.place(child, 1)?;
        let block = store.blocks.bytes(at, store.sb.block_size)?;
        if block.get(..4) != Some(b"BMA3") || be16(&block, 4) != level {
            return Err(Fault::damaged(format!(
                "block {child} is not of level {level} of a tree of extents"
            )));
        }
        store.check(&block, &SEAL, at, fork.inode)?;
        let count = be16(&block, 6);
        if level == 0 {
            let len = usize::from(count) * RECORD;
            let row = block.get(HEAD..HEAD + len);
            let row = row.ok_or_else(|| Fault::damaged(format!("{count} extents in a block")))?;
            return in_row(store, row, logical, end);
        }
        next = below(&block, HEAD, count, logical)?;
    }
    Err(Fault::damaged("a tree of extents without leaves"))
}

/// The child that leads to `logical`, and where the next one begins.
fn below(node: &[u8], head: usize, count: u16, logical: u64) -> Result<(Option<u64>, u64)> {
    let most = node.len().saturating_sub(head) / RECORD;
    let count = usize::from(count);
    if count == 0 || count > most {
        return Err(Fault::damaged(format!("{count} children where {most} fit")));
    }
    let mut child = None;
    for n in 0..count {
        let key = be64(node, head + n * 8);
        if key > logical {
            return Ok((child, key));
        }
        child = Some(be64(node, head + (most + n) * 8));
    }
    Ok((child, u64::MAX))
}

fn hole(logical: u64, end: u64) -> Run {
    let len = end.saturating_sub(logical).max(1);
    Run { at: None, len }
}

/// Looks through extents, of which none begins at `end` or later.
fn in_row(store: &Store, row: &[u8], logical: u64, end: u64) -> Result<Run> {
    for record in row.chunks_exact(RECORD) {
        let (high, low) = (be64(record, 0), be64(record, 8));
        let unwritten = high >> 63 != 0;
        let start = (high & !(1 << 63)) >> 9;
        let block = (high & 0x1ff) << 43 | low >> 21;
        let count = low & 0x1f_ffff;
        if start > logical {
            return Ok(hole(logical, start.min(end)));
        }
        let skip = logical - start;
        if skip >= count {
            continue;
        }
        let at = store.sb.place(block, count)?;
        let at = at.saturating_add(skip.saturating_mul(store.block_size()));
        return Ok(Run {
            at: (!unwritten).then_some(at),
            len: count - skip,
        });
    }
    Ok(hole(logical, end))
}

/// Fills `buf` with the bytes of a fork at `at`; holes are zero.
pub(super) fn read(store: &Store, fork: &Fork<'_>, at: u64, buf: &mut [u8]) -> Result<()> {
    let (mut at, mut rest) = (at, buf);
    while !rest.is_empty() {
        let (logical, skip) = store.split(at);
        let found = find(store, fork, logical)?;
        let bytes = found.len.saturating_mul(store.block_size());
        let now = index(bytes).saturating_sub(skip).min(rest.len());
        let Some((here, behind)) = std::mem::take(&mut rest).split_at_mut_checked(now) else {
            break;
        };
        match found.at {
            Some(place) => store
                .blocks
                .read_at(place.saturating_add(skip as u64), here)?,
            None => here.fill(0),
        }
        at = at.saturating_add(now as u64);
        rest = behind;
    }
    Ok(())
}
