//! Blocks and inodes by their numbers, and the seals on what they hold.

use std::fmt;
use std::sync::Arc;

use super::crc;
use super::fields::{be64, index, le32};
use super::inode::Inode;
use super::superblock::Superblock;
use crate::guest::{Blocks, Fault, FaultKind, Result};

/// A volume with its superblock.
pub(super) struct Store {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) sb: Superblock,
    /// Whether seals are looked at.
    pub(super) verify: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("sb", &self.sb)
            .finish_non_exhaustive()
    }
}

/// Where a kind of metadata keeps what tells it from other blocks, in bytes from its beginning.
#[derive(Debug)]
pub(super) struct Seal {
    pub(super) what: &'static str,
    pub(super) crc: usize,
    /// Its own place on the volume, in sectors of 512 bytes.
    pub(super) place: usize,
    pub(super) uuid: usize,
    /// The inode that it belongs to.
    pub(super) owner: usize,
}

impl Store {
    /// Bytes of a block.
    pub(super) fn block_size(&self) -> u64 {
        self.sb.block_size as u64
    }

    /// Skips the whole blocks in front of a byte.
    pub(super) fn split(&self, at: u64) -> (u64, usize) {
        (at / self.block_size(), index(at % self.block_size()))
    }

    /// Fails where a piece of metadata that stands at byte `at` is not the whole one of `owner`.
    pub(super) fn check(&self, bytes: &[u8], seal: &Seal, at: u64, owner: u64) -> Result<()> {
        if !self.verify {
            return Ok(());
        }
        let what = seal.what;
        let wrong = |why: &str| Err(Fault::damaged(format!("{what} at byte {at}: {why}")));
        if !crc::crc32c_without(!0, bytes, seal.crc, 4) != le32(bytes, seal.crc) {
            return wrong("the checksum is wrong");
        }
        if bytes.get(seal.uuid..seal.uuid + 16) != Some(&self.sb.meta_uuid) {
            return wrong("it is of another file system");
        }
        if be64(bytes, seal.place) != at / 512 || be64(bytes, seal.owner) != owner {
            return wrong("it belongs elsewhere");
        }
        Ok(())
    }

    /// The inode of a file, directory or other thing that has a name.
    ///
    /// # Errors
    /// `NotFound` where no inode can be, `Damaged` where it makes no sense or is not in use.
    pub(super) fn inode(&self, number: u64) -> Result<Inode> {
        let place = |fault: Fault| fault.at(format!("inode {number}"));
        let sb = &self.sb;
        let at = sb.place(number >> sb.inode_bits, 1);
        let at = at.map_err(|fault| Fault::new(FaultKind::NotFound, fault.what));
        let inner = index(number & ((1 << sb.inode_bits) - 1)).saturating_mul(sb.inode_size);
        let at = at.map_err(place)?.saturating_add(inner as u64);
        let raw = self.blocks.bytes(at, sb.inode_size)?;
        Inode::parse(self, number, raw).map_err(place)
    }
}
