//! The bytes of files, links and directories, wherever they stand.

use std::ops::Range;

use super::fields::index;
use super::inode::{Inode, flag};
use super::store::Store;
use super::{run, xattr};
use crate::guest::holes::next_data;
use crate::guest::{Blocks, Fault, Result};

/// A link's target is shorter.
const LONGEST_TARGET: u64 = 64 << 10;

/// Fails for content that only the guest can read.
pub(super) fn readable(inode: &Inode) -> Result<()> {
    match inode.has(flag::ENCRYPTED) {
        true => Err(Fault::unsupported(format!(
            "inode {} is encrypted by the guest",
            inode.number
        ))),
        false => Ok(()),
    }
}

/// Reads at `at`; how much, less than `buf` only at the end.
pub(super) fn read(store: &Store, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<usize> {
    readable(inode)?;
    let left = index(inode.size.saturating_sub(at));
    let len = left.min(buf.len());
    let mut rest = buf.get_mut(..len).unwrap_or_default();
    if rest.is_empty() {
        return Ok(0);
    }
    if inode.has(flag::INLINE) {
        let all = inline(store, inode)?;
        let from = index(at);
        let bytes = all.get(from..from.saturating_add(len)).unwrap_or_default();
        rest.copy_from_slice(bytes);
        return Ok(len);
    }
    let mut at = at;
    while !rest.is_empty() {
        let (logical, skip) = store.split(at);
        let found = run::find(store, inode, logical)?;
        let bytes = found.len.saturating_mul(store.block_size());
        let now = index(bytes).saturating_sub(skip).min(rest.len());
        let Some((here, behind)) = std::mem::take(&mut rest).split_at_mut_checked(now) else {
            break;
        };
        match found.at {
            Some(block) => {
                let place = block.saturating_mul(store.block_size());
                store
                    .blocks
                    .read_at(place.saturating_add(skip as u64), here)?;
            }
            None => here.fill(0),
        }
        at += now as u64;
        rest = behind;
    }
    Ok(len)
}

/// The next bytes from `from` on that are no hole.
pub(super) fn data(store: &Store, inode: &Inode, from: u64) -> Result<Option<Range<u64>>> {
    readable(inode)?;
    let size = inode.size;
    if from >= size {
        return Ok(None);
    }
    if inode.has(flag::INLINE) {
        return Ok(Some(from..size));
    }
    next_data(size, store.block_size(), from, |logical| {
        let found = run::find(store, inode, logical)?;
        Ok((found.len, found.at.is_some()))
    })
}

/// Content that stands in the inode: its sixty bytes, and an attribute for the rest ("Inline
/// Data").
pub(super) fn inline(store: &Store, inode: &Inode) -> Result<Vec<u8>> {
    let mut all = inode.body().to_vec();
    all.extend_from_slice(&xattr::inline_rest(store, inode)?);
    if (all.len() as u64) < inode.size {
        return Err(Fault::damaged(format!(
            "inode {} claims {} bytes and holds {}",
            inode.number,
            inode.size,
            all.len()
        )));
    }
    all.truncate(index(inode.size));
    Ok(all)
}

/// A link's target.
pub(super) fn link(store: &Store, inode: &Inode) -> Result<Vec<u8>> {
    readable(inode)?;
    let wrong = || Fault::damaged(format!("a link to {} bytes", inode.size));
    if inode.size >= LONGEST_TARGET {
        return Err(wrong());
    }
    if inode.is_fast_link(&store.sb) {
        let target = inode.body().get(..index(inode.size));
        return target.map(<[u8]>::to_vec).ok_or_else(wrong);
    }
    let mut target = vec![0; index(inode.size)];
    read(store, inode, 0, &mut target)?;
    Ok(target)
}
