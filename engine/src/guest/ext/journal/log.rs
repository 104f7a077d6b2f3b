//! The blocks of a journal by their numbers in it.

use std::ops::Range;

use super::header::Header;
use crate::guest::ext::crc;
use crate::guest::ext::fields::be32;
use crate::guest::ext::inode::Inode;
use crate::guest::ext::run;
use crate::guest::ext::store::Store;
use crate::guest::{Fault, FaultKind, FileType, Result};

/// Blocks of fast commits at most; Linux makes 256.
const MOST_FAST: u32 = 16 << 10;

/// An open journal.
pub(in crate::guest::ext) struct Log<'a> {
    store: &'a Store,
    inode: Inode,
    pub(super) head: Header,
}

impl<'a> Log<'a> {
    /// Opens the journal that stands in an inode of the file system.
    pub(super) fn open(store: &'a Store) -> Result<Self> {
        let inode = store.any_inode(store.sb.journal_inode)?;
        if inode.links == 0 || inode.file_type() != FileType::File {
            return Err(Fault::damaged("its inode is not in use"));
        }
        let most = (inode.size / store.block_size()).min(store.sb.blocks);
        let first = block_of(store, &inode, 0)?;
        let head = Header::parse(&first, store.sb.block_size, most)?;
        Ok(Self { store, inode, head })
    }

    /// A block of the journal.
    pub(in crate::guest::ext) fn block(&self, number: u32) -> Result<Vec<u8>> {
        block_of(self.store, &self.inode, number)
    }

    /// The block behind `number`; behind the last comes the first.
    pub(super) fn next(&self, number: u32) -> u32 {
        match number.saturating_add(1) {
            next if next >= self.head.end => self.head.first,
            next => next,
        }
    }

    /// Where fast commits stand; one block behind the log is left out.
    pub(super) fn fast_area(&self) -> Option<Range<u32>> {
        let area = self.head.end.saturating_add(1)..self.head.len;
        self.head.fast_commit.then_some(area)
    }

    /// Whether the checksum at the end of a block of the journal's own holds.
    pub(super) fn tail_holds(&self, block: &[u8]) -> bool {
        let at = block.len().saturating_sub(4);
        let crc = || crc::crc32c_without(self.head.seed, block, at, 4);
        !self.head.has_tails() || crc() == be32(block, at)
    }

    /// Bytes of a block that tags and records may take.
    pub(super) fn room(&self) -> usize {
        let tail = if self.head.has_tails() { 4 } else { 0 };
        self.store.sb.block_size - tail
    }
}

fn block_of(store: &Store, inode: &Inode, number: u32) -> Result<Vec<u8>> {
    match run::find(store, inode, number.into())?.at {
        Some(at) => store.block(at),
        None => Err(Fault::damaged(format!("its block {number} is missing"))),
    }
}

/// Fails for an area that no Linux makes.
pub(in crate::guest::ext) fn bounded(area: &Range<u32>) -> Result<()> {
    match area.len() as u64 <= u64::from(MOST_FAST) {
        true => Ok(()),
        false => Err(Fault::new(
            FaultKind::Limit,
            format!("{} blocks of fast commits", area.len()),
        )),
    }
}
