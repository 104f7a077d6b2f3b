//! Inodes: owner, times, size, and the sixty bytes that lead to the content ("Index Nodes").

use super::crc;
use super::fields::{byte, le16, le32, wide};
use super::superblock::{Superblock, incompat, ro_compat};
use crate::guest::{Fault, FileType, Result, Stat, Time};

/// Bytes of the part that every inode has.
const BASE: usize = 128;
/// Where the way to the content stands.
pub(super) const BODY: std::ops::Range<usize> = 0x28..0x64;

/// Inode flags.
pub(super) mod flag {
    pub(in crate::guest::ext) const ENCRYPTED: u32 = 0x800;
    pub(in crate::guest::ext) const INDEXED: u32 = 0x1000;
    pub(in crate::guest::ext) const HUGE: u32 = 0x4_0000;
    pub(in crate::guest::ext) const EXTENTS: u32 = 0x8_0000;
    pub(in crate::guest::ext) const VALUE: u32 = 0x20_0000;
    pub(in crate::guest::ext) const INLINE: u32 = 0x1000_0000;
}

/// An inode, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) mode: u16,
    pub(super) links: u16,
    pub(super) flags: u32,
    pub(super) size: u64,
    /// Bytes that it takes.
    pub(super) allocated: u64,
    /// The block of its extended attributes, 0 if it has none.
    pub(super) xattr_block: u64,
    /// Where the checksums of what belongs to it begin.
    pub(super) seed: u32,
    /// Bytes behind the base that are fields; attributes follow.
    extra: usize,
    raw: Vec<u8>,
}

impl Inode {
    /// Takes an inode apart; `verify` its checksum where the file system has them.
    pub(super) fn parse(sb: &Superblock, number: u32, raw: Vec<u8>, verify: bool) -> Result<Self> {
        let extra = if raw.len() > BASE {
            usize::from(le16(&raw, BASE))
        } else {
            0
        };
        let empty = le16(&raw, 0) == 0 && le16(&raw, 0x1a) == 0;
        let bounded = BASE + extra <= raw.len() && extra.is_multiple_of(4);
        if raw.len() < BASE || !(bounded || empty) {
            return Err(Fault::damaged(format!("{extra} bytes of further fields")));
        }
        let own = crc::crc32c(sb.seed, &number.to_le_bytes());
        let seed = crc::crc32c(own, raw.get(0x64..0x68).unwrap_or_default());
        if sb.metadata_csum() && verify && !empty && !checksum_holds(seed, &raw, extra) {
            return Err(Fault::damaged("the checksum is wrong"));
        }
        let mode = le16(&raw, 0);
        let regular = mode & 0xf000 == 0x8000;
        let large = regular || sb.incompat & incompat::LARGE_DIR != 0;
        let size = wide(if large { le32(&raw, 0x6c) } else { 0 }, le32(&raw, 4));
        if i64::try_from(size).is_err() {
            return Err(Fault::damaged(format!("a size of {size} bytes")));
        }
        let flags = le32(&raw, 0x20);
        let high = |at| u32::from(le16(&raw, at));
        let (huge, wide_blocks) = (
            sb.ro_compat & ro_compat::HUGE_FILE != 0,
            sb.incompat & incompat::WIDE != 0,
        );
        let sectors = wide(if huge { high(0x74) } else { 0 }, le32(&raw, 0x1c));
        let unit = match huge && flags & flag::HUGE != 0 {
            true => sb.block_size as u64,
            false => 512,
        };
        Ok(Self {
            number,
            mode,
            links: le16(&raw, 0x1a),
            flags,
            size,
            allocated: sectors.saturating_mul(unit),
            xattr_block: wide(if wide_blocks { high(0x76) } else { 0 }, le32(&raw, 0x68)),
            seed,
            extra: if bounded { extra } else { 0 },
            raw,
        })
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The sixty bytes that lead to the content, or are it.
    pub(super) fn body(&self) -> &[u8] {
        self.raw.get(BODY).unwrap_or_default()
    }

    /// The bytes behind the fields, for attributes.
    pub(super) fn tail(&self) -> &[u8] {
        match self.raw.len() > BASE {
            true => self.raw.get(BASE + self.extra..).unwrap_or_default(),
            false => &[],
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::of_mode(self.mode.into())
    }

    /// Whether a link's target stands in the inode itself: it takes no blocks but those of its
    /// attributes.
    pub(super) fn is_fast_link(&self, sb: &Superblock) -> bool {
        let attributes = if self.xattr_block == 0 {
            0
        } else {
            sb.cluster_size
        };
        !self.has(flag::INLINE) && self.allocated == attributes
    }

    fn device(&self) -> Option<(u32, u32)> {
        use FileType::{BlockDevice, CharDevice};
        if !matches!(self.file_type(), CharDevice | BlockDevice) {
            return None;
        }
        let (old, new) = (le32(self.body(), 0), le32(self.body(), 4));
        Some(match old {
            0 => (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00),
            _ => (old >> 8 & 0xff, old & 0xff),
        })
    }

    /// A time from its old field and, where the inode has it, its newer one: two more bits of
    /// seconds, and nanoseconds ("Inode Timestamps").
    fn time(&self, at: usize, extra: usize) -> Time {
        let seconds = i64::from(le32(&self.raw, at).cast_signed());
        let extra = match self.has_field(extra) {
            true => le32(&self.raw, extra),
            false => 0,
        };
        Time {
            seconds: seconds + (i64::from(extra & 3) << 32),
            nanos: (extra >> 2).min(999_999_999),
        }
    }

    /// Whether the inode is long enough for a field of four bytes there.
    fn has_field(&self, at: usize) -> bool {
        self.raw.len() > BASE && at + 4 <= BASE + self.extra
    }

    pub(super) fn stat(&self) -> Stat {
        let id =
            |low, high| u32::from(le16(&self.raw, low)) | u32::from(le16(&self.raw, high)) << 16;
        // As Linux counts it: content within the inode takes what it is long, in sectors.
        let inline = self.has(flag::INLINE) && self.file_type() == FileType::File;
        let inline = if inline {
            self.size.div_ceil(512) * 512
        } else {
            0
        };
        Stat {
            allocated: Some(self.allocated.saturating_add(inline)),
            mode: Some(u32::from(self.mode & 0o7777)),
            uid: Some(id(2, 0x78)),
            gid: Some(id(0x18, 0x7a)),
            links: Some(self.links.into()),
            device: self.device(),
            modified: Some(self.time(0x10, 0x88)),
            accessed: Some(self.time(8, 0x8c)),
            changed: Some(self.time(0xc, 0x84)),
            created: self.has_field(0x90).then(|| self.time(0x90, 0x94)),
            ..Stat::new(self.file_type(), self.size)
        }
    }
}

/// The checksum stands in two halves, the upper one only in inodes that are long enough.
fn checksum_holds(seed: u32, raw: &[u8], extra: usize) -> bool {
    let both = raw.len() > BASE && extra >= 4;
    let mut zeroed = raw.to_vec();
    let halves = [Some(0x7c), both.then_some(0x82)];
    for at in halves.into_iter().flatten() {
        if let Some(half) = zeroed.get_mut(at..at + 2) {
            half.fill(0);
        }
    }
    let [a, b, c, d] = crc::crc32c(seed, &zeroed).to_le_bytes();
    let low = [a, b] == [byte(raw, 0x7c), byte(raw, 0x7d)];
    low && (!both || [c, d] == [byte(raw, 0x82), byte(raw, 0x83)])
}
