//! Blocks, group descriptors and inodes by their numbers.

use std::fmt;
use std::sync::Arc;

use super::crc;
use super::fast::Recent;
use super::fields::{index, le16, le32, wide};
use super::inode::Inode;
use super::superblock::{Superblock, incompat, ro_compat};
use crate::guest::{Blocks, Fault, FaultKind, Result};

/// The root directory's inode.
pub(super) const ROOT: u32 = 2;

/// A volume with its superblock, and what fast commits put over it.
pub(super) struct Store {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) sb: Superblock,
    pub(super) recent: Recent,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("sb", &self.sb)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// One block of the file system.
    ///
    /// # Errors
    /// `Damaged` for one outside of it.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>> {
        self.within(number, 1)?;
        let size = self.sb.block_size;
        self.blocks.bytes(number.saturating_mul(size as u64), size)
    }

    /// Fails where `len` blocks from `start` on are not all data of this file system.
    pub(super) fn within(&self, start: u64, len: u64) -> Result<()> {
        let first = self.sb.first_data_block.max(1);
        match start.checked_add(len) {
            Some(end) if start >= first && end <= self.sb.blocks => Ok(()),
            _ => Err(Fault::damaged(format!(
                "blocks from {start} on, {len} of them, lie outside of {}",
                self.sb.blocks
            ))),
        }
    }

    /// Where a group's descriptor stands ("Block Group Descriptors", "Meta Block Groups").
    fn descriptor_place(&self, group: u64) -> u64 {
        let sb = &self.sb;
        let (size, desc) = (sb.block_size as u64, sb.desc_size as u64);
        let per_block = (size / desc).max(1);
        let number = group / per_block;
        // The block of the superblock: the volume's second KiB.
        let front = 1024 / size;
        let block = if sb.incompat & incompat::META_BG == 0 || number < sb.first_meta_bg {
            front.saturating_add(number).saturating_add(1)
        } else {
            let first = number.saturating_mul(per_block);
            let mut skip = u64::from(sb.has_copy(first));
            // Blocks of 1 KiB that begin at 0: the superblock is the second of them.
            if size == 1024 && number == 0 && sb.first_data_block == 0 {
                skip += 1;
            }
            first
                .saturating_mul(u64::from(sb.blocks_per_group))
                .saturating_add(sb.first_data_block + skip)
        };
        let inner = (group % per_block).saturating_mul(desc);
        block.saturating_mul(size).saturating_add(inner)
    }

    /// The block where a group's inodes begin.
    fn inode_table(&self, group: u64) -> Result<u64> {
        let sb = &self.sb;
        let raw = self
            .blocks
            .bytes(self.descriptor_place(group), sb.desc_size)?;
        let number = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
        let wanted = if sb.metadata_csum() {
            let crc = crc::crc32c(sb.seed, &number);
            let [low, high, ..] = crc::crc32c_without(crc, &raw, 0x1e, 2).to_le_bytes();
            Some(u16::from_le_bytes([low, high]))
        } else if sb.ro_compat & ro_compat::GDT_CSUM != 0 {
            let crc = crc::crc16(crc::crc16(!0, &sb.uuid), &number);
            let crc = crc::crc16(crc, raw.get(..0x1e).unwrap_or_default());
            Some(crc::crc16(crc, raw.get(0x20..).unwrap_or_default()))
        } else {
            None
        };
        if wanted.is_some_and(|crc| crc != le16(&raw, 0x1e)) {
            return Err(Fault::damaged(format!(
                "the checksum of group {group}'s descriptor is wrong"
            )));
        }
        let high = if sb.desc_size >= 64 {
            le32(&raw, 0x28)
        } else {
            0
        };
        Ok(wide(high, le32(&raw, 8)))
    }

    /// The bytes of an inode as they stand in its table.
    pub(super) fn raw_inode(&self, number: u32) -> Result<Vec<u8>> {
        let sb = &self.sb;
        if number == 0 || number > sb.inodes {
            return Err(Fault::new(
                FaultKind::NotFound,
                format!("there is no inode {number} of {}", sb.inodes),
            ));
        }
        let (group, inner) = (
            (number - 1) / sb.inodes_per_group,
            (number - 1) % sb.inodes_per_group,
        );
        let table = self.inode_table(group.into())?;
        let inner = u64::from(inner).saturating_mul(sb.inode_size as u64);
        let block = table.saturating_add(inner / sb.block_size as u64);
        self.within(block, 1)?;
        let at = block.saturating_mul(sb.block_size as u64) + inner % sb.block_size as u64;
        self.blocks.bytes(at, sb.inode_size)
    }

    /// An inode by its number, special ones too.
    ///
    /// # Errors
    /// `NotFound` beyond the last one, `Damaged` where it makes no sense.
    pub(super) fn any_inode(&self, number: u32) -> Result<Inode> {
        let place = |fault: Fault| fault.at(format!("inode {number}"));
        let found = match self.recent.inode(number) {
            // Put together from a fast commit that had a checksum of its own.
            Some(raw) => Inode::parse(&self.sb, number, raw.to_vec(), false),
            None => Inode::parse(&self.sb, number, self.raw_inode(number)?, true),
        };
        found.map_err(place)
    }

    /// The inode of a file, directory or other thing that has a name.
    ///
    /// # Errors
    /// As [`any_inode`](Self::any_inode), and `Damaged` for one that is not in use.
    pub(super) fn inode(&self, number: u32) -> Result<Inode> {
        if number != ROOT && number < self.sb.first_inode {
            return Err(Fault::damaged(format!("inode {number} is reserved")));
        }
        let inode = self.any_inode(number)?;
        if inode.links == 0 || inode.mode == 0 {
            return Err(Fault::damaged(format!("inode {number} is not in use")));
        }
        Ok(inode)
    }

    /// Bytes of a block.
    pub(super) fn block_size(&self) -> u64 {
        self.sb.block_size as u64
    }

    /// Skips the whole blocks in front of a byte.
    pub(super) fn split(&self, at: u64) -> (u64, usize) {
        (at / self.block_size(), index(at % self.block_size()))
    }
}
