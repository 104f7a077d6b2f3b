//! The journal's superblock ("Super Block" of jbd2). Its numbers are big-endian.

use crate::guest::ext::crc;
use crate::guest::ext::fields::{be32, byte};
use crate::guest::{Fault, Result};

pub(super) const MAGIC: u32 = 0xc03b_3998;
/// Bytes of the superblock, checksummed as a whole.
const LEN: usize = 1024;
/// Where its checksum stands.
const CHECKSUM: usize = 0xfc;
/// Blocks for fast commits where the superblock does not say.
const FAST_BLOCKS: u32 = 256;

/// Features that a reader must know.
const WIDE: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CSUM_V2: u32 = 0x8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
/// Those, and revocation.
const KNOWN: u32 = 0x3f;
/// Checksums over whole transactions.
const COMPAT_CHECKSUM: u32 = 0x1;

/// How the journal checks what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checks {
    None,
    /// A CRC-32 over the blocks of a transaction, in its commit block.
    Transaction,
    /// A CRC-32C in every block of the journal's own, and half of one for every block of data.
    Half,
    /// The same, with whole checksums for data.
    Whole,
}

/// What the journal says of itself.
#[derive(Debug)]
pub(super) struct Header {
    /// Blocks of the journal, its superblock and the area of fast commits included.
    pub(super) len: u32,
    /// The first block of the log.
    pub(super) first: u32,
    /// One behind its last block: there it goes on with the first.
    pub(super) end: u32,
    /// The first transaction's number.
    pub(super) sequence: u32,
    /// The block where it begins; 0 where the journal is empty.
    pub(super) start: u32,
    pub(super) checks: Checks,
    /// Block numbers of 64 bits.
    pub(super) wide: bool,
    pub(super) async_commit: bool,
    pub(super) fast_commit: bool,
    /// Where checksums begin.
    pub(super) seed: u32,
}

impl Header {
    /// Takes the journal's first block apart; `most` blocks fit into its inode.
    pub(super) fn parse(block: &[u8], block_size: usize, most: u64) -> Result<Self> {
        let [magic, kind, size, len, first, sequence, start] =
            [0, 4, 0xc, 0x10, 0x14, 0x18, 0x1c].map(|at| be32(block, at));
        if magic != MAGIC || !matches!(kind, 3 | 4) {
            return Err(Fault::damaged("it has no superblock"));
        }
        // The first version has no features.
        let feature = |at| if kind == 3 { 0 } else { be32(block, at) };
        let (compat, incompat) = (feature(0x24), feature(0x28));
        if incompat & !KNOWN != 0 || feature(0x2c) != 0 {
            let unknown = incompat & !KNOWN;
            return Err(Fault::unsupported(format!("its feature bits {unknown:#x}")));
        }
        let checks = match incompat & (CSUM_V2 | CSUM_V3) {
            0 if compat & COMPAT_CHECKSUM != 0 => Checks::Transaction,
            0 => Checks::None,
            CSUM_V2 => Checks::Half,
            CSUM_V3 => Checks::Whole,
            _ => return Err(Fault::damaged("it has two kinds of checksums")),
        };
        if matches!(checks, Checks::Half | Checks::Whole) {
            let whole = block.get(..LEN).unwrap_or_default();
            let crc = crc::crc32c_without(!0, whole, CHECKSUM, 4);
            if byte(block, 0x50) != 4 || crc != be32(block, CHECKSUM) {
                return Err(Fault::damaged("its superblock's checksum is wrong"));
            }
        }
        let fast_commit = incompat & FAST_COMMIT != 0;
        let fast = match be32(block, 0x54) {
            _ if !fast_commit => 0,
            0 => FAST_BLOCKS,
            n => n,
        };
        let end = len.saturating_sub(fast);
        let placed = start == 0 || (first..end).contains(&start);
        let sized = u64::from(len) <= most && first > 0 && first < end;
        if usize::try_from(size).ok() != Some(block_size) || !sized || !placed {
            return Err(Fault::damaged(format!(
                "it claims {len} blocks of {size} bytes, the log in {first}..{end} from {start}"
            )));
        }
        Ok(Self {
            len,
            first,
            end,
            sequence,
            start,
            checks,
            wide: incompat & WIDE != 0,
            async_commit: incompat & ASYNC_COMMIT != 0,
            fast_commit,
            seed: crc::crc32c(!0, block.get(0x30..0x40).unwrap_or_default()),
        })
    }

    /// Whether blocks of the journal's own end in a checksum.
    pub(super) fn has_tails(&self) -> bool {
        matches!(self.checks, Checks::Half | Checks::Whole)
    }
}
