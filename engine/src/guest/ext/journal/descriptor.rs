//! Descriptor blocks: which blocks of the volume the next blocks of the log are ("Descriptor
//! Block").

use super::header::Checks;
use super::log::Log;
use crate::guest::ext::crc;
use crate::guest::ext::fields::{be16, be32, wide};

/// Bytes in front of the first tag.
pub(super) const HEAD: usize = 12;
/// Bytes of the journal's identifier behind a tag that is not like the one before.
const IDENTITY: usize = 16;

/// The block began with the journal's magic number, which was taken out.
const ESCAPED: u32 = 1;
const SAME_IDENTITY: u32 = 2;
const LAST: u32 = 8;

/// One block of data in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    /// Where it belongs.
    pub(super) block: u64,
    pub(super) escaped: bool,
    checksum: u32,
}

/// The tags of a descriptor block.
pub(super) fn tags(log: &Log<'_>, block: &[u8]) -> Vec<Tag> {
    let (checks, wide_numbers) = (log.head.checks, log.head.wide);
    let len = match checks {
        Checks::Whole => 16,
        Checks::Half => 10 + if wide_numbers { 4 } else { 0 },
        _ => 8 + if wide_numbers { 4 } else { 0 },
    };
    let (mut all, mut at) = (Vec::new(), HEAD);
    while at + len <= log.room() {
        let tag = block.get(at..at + len).unwrap_or_default();
        let (flags, checksum) = match checks {
            Checks::Whole => (be32(tag, 4), be32(tag, 12)),
            _ => (be16(tag, 6).into(), be16(tag, 4).into()),
        };
        let high = if wide_numbers { be32(tag, 8) } else { 0 };
        all.push(Tag {
            block: wide(high, be32(tag, 0)),
            escaped: flags & ESCAPED != 0,
            checksum,
        });
        at += len;
        if flags & SAME_IDENTITY == 0 {
            at += IDENTITY;
        }
        if flags & LAST != 0 {
            break;
        }
    }
    all
}

impl Tag {
    /// Whether `data`, as it stands in the log, is what was written there by a transaction.
    pub(super) fn holds(&self, log: &Log<'_>, sequence: u32, data: &[u8]) -> bool {
        let crc = || {
            let crc = crc::crc32c(log.head.seed, &sequence.to_be_bytes());
            crc::crc32c(crc, data)
        };
        match log.head.checks {
            Checks::Whole => crc() == self.checksum,
            Checks::Half => crc() & 0xffff == self.checksum,
            _ => true,
        }
    }
}
