//! The bytes of files and links, wherever they stand.

use std::ops::Range;

use super::fields::{be32, index};
use super::inode::{Format, Inode};
use super::map;
use super::store::{Seal, Store};
use crate::guest::holes::next_data;
use crate::guest::{Blocks, Fault, Result};

/// A link's target is not longer.
const LONGEST_TARGET: u64 = 1024;
/// Bytes in front of a part of a target.
const LINK_HEAD: usize = 56;

const LINK_SEAL: Seal = Seal {
    what: "a link's target",
    crc: 12,
    place: 40,
    uuid: 16,
    owner: 32,
};

/// Fails for content that is not on this volume.
fn here(inode: &Inode) -> Result<()> {
    match inode.is_realtime() {
        true => Err(Fault::unsupported(format!(
            "the content of inode {} is on a realtime device, which is not read",
            inode.number
        ))),
        false => Ok(()),
    }
}

/// Reads at `at`; how much, less than `buf` only at the end.
pub(super) fn read(store: &Store, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<usize> {
    here(inode)?;
    let len = index(inode.size.saturating_sub(at)).min(buf.len());
    let buf = buf.get_mut(..len).unwrap_or_default();
    if len > 0 {
        map::read(store, &inode.content()?, at, buf)?;
    }
    Ok(len)
}

/// The next bytes from `from` on that are no hole.
pub(super) fn data(store: &Store, inode: &Inode, from: u64) -> Result<Option<Range<u64>>> {
    here(inode)?;
    if from >= inode.size {
        return Ok(None);
    }
    let fork = inode.content()?;
    next_data(inode.size, store.block_size(), from, |logical| {
        let found = map::find(store, &fork, logical)?;
        Ok((found.len, found.at.is_some()))
    })
}

/// A link's target: in the inode, or in blocks with one head for each row of them ("Symbolic
/// Links").
pub(super) fn link(store: &Store, inode: &Inode) -> Result<Vec<u8>> {
    let wrong = || {
        Fault::damaged(format!(
            "inode {}: a link to {} bytes",
            inode.number, inode.size
        ))
    };
    let fork = inode.content()?;
    let size = index(inode.size);
    if inode.size == 0 || inode.size > LONGEST_TARGET {
        return Err(wrong());
    }
    if fork.format == Format::Local {
        return fork.body.get(..size).map(<[u8]>::to_vec).ok_or_else(wrong);
    }
    let most = size.div_ceil(store.sb.block_size - LINK_HEAD) as u64;
    let (mut target, mut logical) = (Vec::new(), 0);
    while logical < most {
        let run = map::find(store, &fork, logical)?;
        let at = run.at.ok_or_else(wrong)?;
        let blocks = run.len.min(most - logical);
        let len = index(blocks.saturating_mul(store.block_size()));
        let part = store.blocks.bytes(at, len)?;
        if part.get(..4) != Some(b"XSLM") || index(be32(&part, 4)) != target.len() {
            return Err(wrong());
        }
        store.check(&part, &LINK_SEAL, at, inode.number)?;
        let bytes = LINK_HEAD..LINK_HEAD.saturating_add(index(be32(&part, 8)));
        target.extend_from_slice(part.get(bytes).ok_or_else(wrong)?);
        logical += blocks;
    }
    match target.len() == size {
        true => Ok(target),
        false => Err(wrong()),
    }
}
