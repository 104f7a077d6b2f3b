//! Inodes: owner, times, size, and the two forks that lead to content and attributes ("On-disk
//! Inode").

use super::crc;
use super::fields::{be16, be32, be64, byte, le32};
use super::store::Store;
use crate::guest::{Fault, FileType, Result, Stat, Time};

/// Bytes in front of the forks.
const CORE: usize = 176;
/// Of the flags: the content is on the realtime device.
const REALTIME: u16 = 0x1;
/// Of the further flags: times are counted in nanoseconds, extents by wider numbers.
const BIG_TIME: u64 = 0x8;
const BIG_COUNT: u64 = 0x10;
/// Where wide times begin: 2^31 seconds before 1970.
const EPOCH: i64 = 1 << 31;

/// How a fork keeps what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// In itself.
    Local,
    /// A row of extents.
    Extents,
    /// The root of a tree of extents.
    Tree,
}

/// One of the forks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fork<'a> {
    pub(super) inode: u64,
    pub(super) format: Format,
    pub(super) body: &'a [u8],
    /// Extents of the whole fork.
    pub(super) extents: u64,
}

/// An inode, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) size: u64,
    mode: u16,
    allocated: u64,
    flags2: u64,
    /// Bytes of the content's fork.
    fork: usize,
    raw: Vec<u8>,
}

impl Inode {
    pub(super) fn parse(store: &Store, number: u64, raw: Vec<u8>) -> Result<Self> {
        if raw.get(..2) != Some(b"IN") || byte(&raw, 4) != 3 {
            return Err(Fault::damaged("it has no magic number"));
        }
        if store.verify && !crc::crc32c_without(!0, &raw, 100, 4) != le32(&raw, 100) {
            return Err(Fault::damaged("the checksum is wrong"));
        }
        let own = raw.get(160..176) == Some(&store.sb.meta_uuid) && be64(&raw, 152) == number;
        if store.verify && !own {
            return Err(Fault::damaged("it belongs elsewhere"));
        }
        let mode = be16(&raw, 2);
        if mode == 0 || be32(&raw, 16) == 0 {
            return Err(Fault::damaged("it is not in use"));
        }
        let size = be64(&raw, 56);
        if i64::try_from(size).is_err() {
            return Err(Fault::damaged(format!("a size of {size} bytes")));
        }
        let room = raw.len().saturating_sub(CORE);
        let fork = match usize::from(byte(&raw, 82)) * 8 {
            0 => room,
            bytes if bytes < room => bytes,
            bytes => return Err(Fault::damaged(format!("a fork of {bytes} bytes"))),
        };
        Ok(Self {
            number,
            size,
            mode,
            allocated: be64(&raw, 64).saturating_mul(store.block_size()),
            flags2: be64(&raw, 120),
            fork,
            raw,
        })
    }

    pub(super) fn is_realtime(&self) -> bool {
        be16(&self.raw, 90) & REALTIME != 0
    }

    /// The fork that leads to content.
    pub(super) fn content(&self) -> Result<Fork<'_>> {
        let extents = match self.flags2 & BIG_COUNT {
            0 => be32(&self.raw, 76).into(),
            _ => be64(&self.raw, 24),
        };
        self.fork(byte(&self.raw, 5), CORE, CORE + self.fork, extents)
    }

    /// The fork that leads to attributes, where there is one.
    pub(super) fn attributes(&self) -> Result<Option<Fork<'_>>> {
        if byte(&self.raw, 82) == 0 {
            return Ok(None);
        }
        let extents = match self.flags2 & BIG_COUNT {
            0 => be16(&self.raw, 80).into(),
            _ => be32(&self.raw, 76).into(),
        };
        let (from, format) = (CORE + self.fork, byte(&self.raw, 83));
        self.fork(format, from, self.raw.len(), extents).map(Some)
    }

    fn fork(&self, format: u8, from: usize, to: usize, extents: u64) -> Result<Fork<'_>> {
        let format = match format {
            1 => Format::Local,
            2 => Format::Extents,
            3 => Format::Tree,
            other => {
                return Err(Fault::damaged(format!(
                    "inode {} has a fork of format {other}",
                    self.number
                )));
            }
        };
        Ok(Fork {
            inode: self.number,
            format,
            body: self.raw.get(from..to).unwrap_or_default(),
            extents,
        })
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::of_mode(self.mode.into())
    }

    fn device(&self) -> Option<(u32, u32)> {
        use FileType::{BlockDevice, CharDevice};
        let number = be32(&self.raw, CORE);
        let device = matches!(self.file_type(), CharDevice | BlockDevice);
        device.then_some((number >> 18, number & 0x3_ffff))
    }

    /// A time: two halves of 32 bits, or nanoseconds since long ago ("Timestamps").
    fn time(&self, at: usize) -> Time {
        let raw = be64(&self.raw, at);
        if self.flags2 & BIG_TIME != 0 {
            let seconds = i64::try_from(raw / 1_000_000_000).unwrap_or(i64::MAX);
            return Time {
                seconds: seconds.saturating_sub(EPOCH),
                nanos: u32::try_from(raw % 1_000_000_000).unwrap_or(0),
            };
        }
        Time {
            seconds: be32(&self.raw, at).cast_signed().into(),
            nanos: be32(&self.raw, at + 4).min(999_999_999),
        }
    }

    pub(super) fn stat(&self) -> Stat {
        Stat {
            allocated: Some(self.allocated),
            mode: Some(u32::from(self.mode & 0o7777)),
            uid: Some(be32(&self.raw, 8)),
            gid: Some(be32(&self.raw, 12)),
            links: Some(be32(&self.raw, 16).into()),
            device: self.device(),
            modified: Some(self.time(40)),
            accessed: Some(self.time(32)),
            changed: Some(self.time(48)),
            created: Some(self.time(144)),
            ..Stat::new(self.file_type(), self.size)
        }
    }
}
