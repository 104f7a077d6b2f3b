//! The superblock: sizes, places and features ("Superblocks").

use super::crc;
use super::fields::{be16, be32, be64, byte, le32};
use crate::guest::features::refuse_unknown;
use crate::guest::{Blocks, Fault, Result};

/// Features that a reader must know.
mod incompat {
    pub(super) const META_UUID: u32 = 0x4;
    /// File types in directories, sparse inode chunks, a further identifier in metadata, wide
    /// times, wide extent counters, exchanged ranges, parent pointers.
    pub(super) const KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80;
    /// The names of those that are not read.
    pub(super) const NAMES: [(u32, &str); 4] = [
        (0x10, "needsrepair: it wants xfs_repair first"),
        (0x100, "metadir"),
        (0x200, "zoned"),
        (0x400, "zone_gaps"),
    ];
}

/// What the superblock says, checked to make sense together.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Bytes of a block: 1 KiB to 64 KiB.
    pub(super) block_size: usize,
    pub(super) blocks: u64,
    pub(super) root: u64,
    /// Blocks of an allocation group; the last one may have fewer.
    pub(super) group_blocks: u64,
    pub(super) groups: u64,
    /// Bits of a block number that count within its group.
    pub(super) group_bits: u32,
    pub(super) inode_size: usize,
    /// Bits of an inode number that count within its block.
    pub(super) inode_bits: u32,
    /// Bytes of a directory's block.
    pub(super) dir_block: usize,
    pub(super) has_types: bool,
    /// The first block of the log, 0 where it is on another device.
    pub(super) log_start: u64,
    pub(super) log_blocks: u64,
    pub(super) uuid: [u8; 16],
    /// The identifier in all metadata: it stays when the other one changes.
    pub(super) meta_uuid: [u8; 16],
    label: Vec<u8>,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// `Damaged` for what makes no sense, `Unsupported` by name for what a reader must know.
    pub(super) fn read(volume: &dyn Blocks, verify: bool) -> Result<Self> {
        let raw = volume.bytes(0, 512)?;
        if raw.get(..4) != Some(b"XFSB") {
            return Err(Fault::damaged("the superblock has no magic number"));
        }
        let version = be16(&raw, 100) & 0xf;
        if version != 5 {
            return Err(Fault::unsupported(format!(
                "XFS of version {version}, without checksums, is not read"
            )));
        }
        let sector = usize::from(be16(&raw, 102));
        if !sector.is_power_of_two() || !(512..=32 << 10).contains(&sector) {
            return Err(Fault::damaged(format!("sectors of {sector} bytes")));
        }
        let whole = volume.bytes(0, sector)?;
        if verify && !crc::crc32c_without(!0, &whole, 224, 4) != le32(&raw, 224) {
            return Err(Fault::damaged("the superblock's checksum is wrong"));
        }
        let incompat = be32(&raw, 216);
        refuse_unknown("XFS", incompat, incompat::KNOWN, &incompat::NAMES)?;
        if byte(&raw, 126) != 0 {
            return Err(Fault::damaged("the volume was never formatted to its end"));
        }
        let id = |at: usize| {
            let bytes = raw.get(at..at + 16).and_then(|b| b.try_into().ok());
            bytes.unwrap_or([0u8; 16])
        };
        let own_meta = incompat & incompat::META_UUID != 0;
        let label = raw.get(108..120).unwrap_or_default();
        let block_size = be32(&raw, 4);
        let found = Self {
            block_size: usize::try_from(block_size).unwrap_or(0),
            blocks: be64(&raw, 8),
            root: be64(&raw, 56),
            group_blocks: be32(&raw, 84).into(),
            groups: be32(&raw, 88).into(),
            group_bits: byte(&raw, 124).into(),
            inode_size: be16(&raw, 104).into(),
            inode_bits: byte(&raw, 123).into(),
            dir_block: block_size
                .checked_shl(byte(&raw, 192).into())
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(0),
            has_types: incompat & 1 != 0,
            log_start: be64(&raw, 48),
            log_blocks: be32(&raw, 96).into(),
            uuid: id(32),
            meta_uuid: id(if own_meta { 248 } else { 32 }),
            label: label.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
        };
        found.sane(volume.size())?;
        Ok(found)
    }

    /// Fails where the numbers do not fit together or go beyond the volume.
    fn sane(&self, volume: u64) -> Result<()> {
        let block = self.block_size;
        let wrong = |what: String| Err(Fault::damaged(format!("the superblock claims {what}")));
        if !block.is_power_of_two() || !(1024..=64 << 10).contains(&block) {
            return wrong(format!("blocks of {block} bytes"));
        }
        match self.blocks.checked_mul(block as u64) {
            Some(bytes) if bytes <= volume => {}
            _ => {
                return wrong(format!(
                    "{} blocks of {block} in {volume} bytes",
                    self.blocks
                ));
            }
        }
        let inode = self.inode_size;
        if !inode.is_power_of_two() || !(512..=2048.min(block)).contains(&inode) {
            return wrong(format!("inodes of {inode} bytes"));
        }
        if 1usize.checked_shl(self.inode_bits) != Some(block / inode) {
            return wrong(format!("inode numbers of {} bits", self.inode_bits));
        }
        let dir = self.dir_block;
        if !dir.is_power_of_two() || !(block..=64 << 10).contains(&dir) {
            return wrong(format!("directory blocks of {dir} bytes"));
        }
        let fits = self.group_bits <= 31 && self.group_blocks <= 1 << self.group_bits.min(31);
        if !fits || self.group_blocks < 16 {
            return wrong(format!(
                "groups of {} blocks, counted by {} bits",
                self.group_blocks, self.group_bits
            ));
        }
        if self.groups == 0 || self.blocks.div_ceil(self.group_blocks) != self.groups {
            return wrong(format!("{} groups for {} blocks", self.groups, self.blocks));
        }
        Ok(())
    }

    pub(super) fn label(&self) -> Option<String> {
        let text = || String::from_utf8_lossy(&self.label).into_owned();
        (!self.label.is_empty()).then(text)
    }

    /// The byte where `len` blocks of one allocation group stand.
    ///
    /// # Errors
    /// `Damaged` where they do not lie within a group, behind its headers.
    pub(super) fn place(&self, block: u64, len: u64) -> Result<u64> {
        let (group, inner) = (
            block >> self.group_bits,
            block & ((1 << self.group_bits) - 1),
        );
        let first = group.saturating_mul(self.group_blocks);
        let blocks = self.blocks.saturating_sub(first).min(self.group_blocks);
        match inner.checked_add(len) {
            Some(end) if group < self.groups && inner > 0 && end <= blocks => {
                Ok(first.saturating_add(inner) * self.block_size as u64)
            }
            _ => Err(Fault::damaged(format!(
                "blocks from {inner} of group {group} on, {len} of them, lie outside of it"
            ))),
        }
    }
}
