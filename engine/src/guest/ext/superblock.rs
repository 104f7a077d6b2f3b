//! The superblock: sizes, places and features ("The Super Block" in the kernel's ext4 documents).

use super::crc;
use super::fields::{byte, index, le16, le32, wide};
use crate::guest::features::refuse_unknown;
use crate::guest::{Blocks, Fault, Result};

/// Where it stands, and how long it is.
const AT: u64 = 1024;
const LEN: usize = 1024;

/// Features that a reader must know.
pub(super) mod incompat {
    pub(in crate::guest::ext) const FILE_TYPE: u32 = 0x2;
    pub(in crate::guest::ext) const RECOVER: u32 = 0x4;
    pub(in crate::guest::ext) const META_BG: u32 = 0x10;
    pub(in crate::guest::ext) const WIDE: u32 = 0x80;
    pub(in crate::guest::ext) const CSUM_SEED: u32 = 0x2000;
    pub(in crate::guest::ext) const LARGE_DIR: u32 = 0x4000;
    /// All that this reader knows: file types, recovery, meta groups, extents, 64 bits, mount
    /// protection, flexible groups, values in inodes, checksum seed, large directories, inline
    /// data, encryption (of files), case folding.
    pub(in crate::guest::ext) const KNOWN: u32 = 0x2
        | 0x4
        | 0x10
        | 0x40
        | 0x80
        | 0x100
        | 0x200
        | 0x400
        | 0x2000
        | 0x4000
        | 0x8000
        | 0x1_0000
        | 0x2_0000;
    /// The names of those that it does not.
    pub(in crate::guest::ext) const NAMES: [(u32, &str); 3] = [
        (0x1, "compression"),
        (0x8, "journal_dev: a journal of another file system"),
        (0x1000, "dirdata"),
    ];
    /// What ext3 has too.
    pub(in crate::guest::ext) const OF_EXT3: u32 = FILE_TYPE | RECOVER | META_BG;
}

/// Features that change how the volume is written.
pub(super) mod ro_compat {
    pub(in crate::guest::ext) const SPARSE_SUPER: u32 = 0x1;
    pub(in crate::guest::ext) const HUGE_FILE: u32 = 0x8;
    pub(in crate::guest::ext) const GDT_CSUM: u32 = 0x10;
    pub(in crate::guest::ext) const METADATA_CSUM: u32 = 0x400;
    /// What ext3 has too: sparse superblocks, large files, directory trees.
    pub(in crate::guest::ext) const OF_EXT3: u32 = 0x1 | 0x2 | 0x4;
}

/// Features that nobody needs to know.
pub(super) mod compat {
    pub(in crate::guest::ext) const HAS_JOURNAL: u32 = 0x4;
    pub(in crate::guest::ext) const SPARSE_SUPER2: u32 = 0x200;
}

/// What the superblock says, checked to make sense together.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) blocks: u64,
    pub(super) first_data_block: u64,
    /// Bytes of a block: 1 KiB to 64 KiB.
    pub(super) block_size: usize,
    /// Bytes of an allocation unit: a block, or more of them with `bigalloc`.
    pub(super) cluster_size: u64,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: usize,
    pub(super) first_inode: u32,
    pub(super) desc_size: usize,
    pub(super) first_meta_bg: u64,
    pub(super) backup_groups: [u32; 2],
    pub(super) journal_inode: u32,
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    pub(super) uuid: [u8; 16],
    label: Vec<u8>,
    /// Where the checksums of this file system begin.
    pub(super) seed: u32,
}

impl Superblock {
    /// Reads and checks it.
    ///
    /// # Errors
    /// `Damaged` for what makes no sense, `Unsupported` by name for what a reader must know.
    pub(super) fn read(volume: &dyn Blocks) -> Result<Self> {
        let raw = volume.bytes(AT, LEN)?;
        if le16(&raw, 0x38) != 0xef53 {
            return Err(Fault::damaged("the superblock has no magic number"));
        }
        // Before revision 1 there are no features, and inodes have one size.
        let old = le32(&raw, 0x4c) == 0;
        let feature = |at| if old { 0 } else { le32(&raw, at) };
        let (incompat, ro_compat) = (feature(0x60), feature(0x64));
        refuse_unknown("ext", incompat, incompat::KNOWN, &incompat::NAMES)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(raw.get(0x68..0x78).unwrap_or(&[0; 16]));
        let metadata_csum = ro_compat & ro_compat::METADATA_CSUM != 0;
        if metadata_csum {
            check(&raw)?;
        }
        let shift = |at| match le32(&raw, at) {
            n @ 0..=6 => Ok(1usize << (10 + n)),
            n => Err(Fault::damaged(format!("a block of 2^(10+{n}) bytes"))),
        };
        let block_size = shift(0x18)?;
        let high = |at| {
            if incompat & incompat::WIDE == 0 {
                0
            } else {
                le32(&raw, at)
            }
        };
        let label = raw.get(0x78..0x88).unwrap_or_default();
        let found = Self {
            inodes: le32(&raw, 0),
            blocks: wide(high(0x150), le32(&raw, 4)),
            first_data_block: u64::from(le32(&raw, 0x14)),
            block_size,
            cluster_size: match ro_compat & 0x200 {
                0 => block_size as u64,
                _ => 1024u64.checked_shl(le32(&raw, 0x1c)).unwrap_or(0),
            },
            blocks_per_group: le32(&raw, 0x20),
            inodes_per_group: le32(&raw, 0x28),
            inode_size: if old { 128 } else { le16(&raw, 0x58).into() },
            first_inode: if old { 11 } else { le32(&raw, 0x54) },
            desc_size: match incompat & incompat::WIDE {
                0 => 32,
                _ => le16(&raw, 0xfe).into(),
            },
            first_meta_bg: u64::from(le32(&raw, 0x104)),
            backup_groups: [le32(&raw, 0x24c), le32(&raw, 0x250)],
            journal_inode: feature(0xe0),
            compat: feature(0x5c),
            incompat,
            ro_compat,
            uuid,
            label: label.split(|b| *b == 0).next().unwrap_or_default().to_vec(),
            seed: match incompat & incompat::CSUM_SEED {
                0 => crc::crc32c(!0, &uuid),
                _ => le32(&raw, 0x270),
            },
        };
        found.sane(volume.size())?;
        Ok(found)
    }

    /// Fails where the numbers do not fit together or go beyond the volume.
    fn sane(&self, volume: u64) -> Result<()> {
        let block = self.block_size;
        let wrong = |what: String| Err(Fault::damaged(format!("the superblock claims {what}")));
        match self.blocks.checked_mul(block as u64) {
            Some(bytes) if bytes <= volume => {}
            _ => {
                return wrong(format!(
                    "{} blocks of {block} in {volume} bytes",
                    self.blocks
                ));
            }
        }
        if self.first_data_block > 1 || self.first_data_block >= self.blocks {
            return wrong(format!("data from block {} on", self.first_data_block));
        }
        if !self.inode_size.is_power_of_two() || !(128..=block).contains(&self.inode_size) {
            return wrong(format!("inodes of {} bytes", self.inode_size));
        }
        let wide = self.incompat & incompat::WIDE != 0;
        let fits = if wide { 64..=1024.min(block) } else { 32..=32 };
        if !self.desc_size.is_power_of_two() || !fits.contains(&self.desc_size) {
            return wrong(format!("group descriptors of {} bytes", self.desc_size));
        }
        let bits = block as u64 * 8;
        let ratio = self.cluster_size / block as u64;
        if !self.cluster_size.is_power_of_two() || !(1..=1 << 20).contains(&ratio) {
            return wrong(format!("clusters of {} bytes", self.cluster_size));
        }
        if !(1..=bits * ratio).contains(&u64::from(self.blocks_per_group)) {
            return wrong(format!("{} blocks in a group", self.blocks_per_group));
        }
        if !(1..=bits).contains(&u64::from(self.inodes_per_group)) {
            return wrong(format!("{} inodes in a group", self.inodes_per_group));
        }
        let most = self.groups().saturating_mul(self.inodes_per_group.into());
        if u64::from(self.inodes) > most || self.inodes < 2 {
            return wrong(format!("{} inodes where {most} fit", self.inodes));
        }
        Ok(())
    }

    pub(super) fn groups(&self) -> u64 {
        let blocks = self.blocks.saturating_sub(self.first_data_block);
        blocks.div_ceil(u64::from(self.blocks_per_group).max(1))
    }

    pub(super) fn metadata_csum(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CSUM != 0
    }

    /// The name of the format: the oldest one that has all its features.
    pub(super) fn kind(&self) -> &'static str {
        let newer = self.incompat & !incompat::OF_EXT3 | self.ro_compat & !ro_compat::OF_EXT3;
        match (newer, self.compat & compat::HAS_JOURNAL) {
            (0, 0) => "ext2",
            (0, _) => "ext3",
            _ => "ext4",
        }
    }

    pub(super) fn label(&self) -> Option<String> {
        let text = || String::from_utf8_lossy(&self.label).into_owned();
        (!self.label.is_empty()).then(text)
    }

    /// Whether a copy of the superblock stands in a group.
    pub(super) fn has_copy(&self, group: u64) -> bool {
        if self.compat & compat::SPARSE_SUPER2 != 0 {
            return group == 0 || self.backup_groups.iter().any(|g| u64::from(*g) == group);
        }
        let power_of = |base: u64| {
            let mut n = base;
            while n < group {
                n = n.saturating_mul(base);
            }
            n == group
        };
        let sparse = self.ro_compat & ro_compat::SPARSE_SUPER != 0;
        !sparse || group <= 1 || [3, 5, 7].into_iter().any(power_of)
    }
}

fn check(raw: &[u8]) -> Result<()> {
    if byte(raw, 0x175) != 1 {
        let kind = byte(raw, 0x175);
        return Err(Fault::unsupported(format!("ext checksums of type {kind}")));
    }
    let covered = raw.get(..index(0x3fc_u32)).unwrap_or_default();
    if crc::crc32c(!0, covered) != le32(raw, 0x3fc) {
        return Err(Fault::damaged("the superblock's checksum is wrong"));
    }
    Ok(())
}
