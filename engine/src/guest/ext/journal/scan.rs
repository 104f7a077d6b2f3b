//! The first walk through the log: which transactions are complete.

use super::descriptor::{HEAD, tags};
use super::header::{Checks, MAGIC};
use super::log::Log;
use crate::guest::ext::crc;
use crate::guest::ext::fields::{be32, be64, byte};
use crate::guest::{Fault, FaultKind, Result};

/// Blocks of the journal's own that a replay looks at; one of them stands for some hundreds.
const MOST: usize = 1 << 19;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// What a block of the journal's own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Descriptor,
    Revoke,
}

/// The blocks that a replay looks at again, in the log's order.
#[derive(Debug)]
pub(super) struct Scan {
    /// Transaction, kind, and number in the journal.
    pub(super) blocks: Vec<(u32, Kind, u32)>,
    /// The first transaction that is not complete.
    pub(super) end: u32,
}

/// Walks through the log up to where it ends: at a block that does not go on with it.
///
/// # Errors
/// `Damaged` where a transaction is not what was committed, as in the kernel: at the end of the
/// log it may be one that was never finished, and is left out; with more behind it, it is damage.
pub(super) fn scan(log: &Log<'_>) -> Result<Scan> {
    let mut walk = Walk {
        log,
        blocks: Vec::new(),
        sequence: log.head.sequence,
        suspect: false,
        broken: None,
        crc: !0,
        last_time: 0,
    };
    let (mut at, mut walked) = (log.head.start, 0u64);
    loop {
        let block = log.block(at)?;
        if be32(&block, 0) != MAGIC || be32(&block, 8) != walk.sequence {
            break;
        }
        let here = at;
        at = log.next(at);
        walked += 1;
        match be32(&block, 4) {
            DESCRIPTOR => {
                walked += walk.descriptor(here, &block, &mut at)?;
            }
            REVOKE => {
                walk.suspect |= !log.tail_holds(&block);
                walk.blocks.push((walk.sequence, Kind::Revoke, here));
            }
            COMMIT => {
                if !walk.commit(&block)? {
                    break;
                }
            }
            _ => break,
        }
        if walk.blocks.len() > MOST || walked > u64::from(log.head.end) {
            return Err(Fault::new(FaultKind::Limit, "it does not end"));
        }
    }
    let end = walk.broken.unwrap_or(walk.sequence);
    walk.blocks.retain(|(sequence, ..)| before(*sequence, end));
    Ok(Scan {
        blocks: walk.blocks,
        end,
    })
}

/// Whether a transaction is older than another; numbers wrap around.
pub(super) fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

struct Walk<'a> {
    log: &'a Log<'a>,
    blocks: Vec<(u32, Kind, u32)>,
    sequence: u32,
    /// A block's checksum was wrong: left over from an older round, or damage.
    suspect: bool,
    /// The first transaction whose commit block is wrong.
    broken: Option<u32>,
    /// Over the blocks of this transaction.
    crc: u32,
    last_time: u64,
}

impl Walk<'_> {
    /// Steps over the data of a descriptor; how many blocks that are.
    fn descriptor(&mut self, here: u32, block: &[u8], at: &mut u32) -> Result<u64> {
        self.suspect |= !self.log.tail_holds(block);
        self.blocks.push((self.sequence, Kind::Descriptor, here));
        let count = tags(self.log, block).len();
        let sums = self.log.head.checks == Checks::Transaction;
        if sums {
            self.crc = crc::crc32_straight(self.crc, block);
        }
        for _ in 0..count {
            if sums {
                self.crc = crc::crc32_straight(self.crc, &self.log.block(*at)?);
            }
            *at = self.log.next(*at);
        }
        Ok(count as u64)
    }

    /// Looks at a commit block; false where the log ends in front of it.
    fn commit(&mut self, block: &[u8]) -> Result<bool> {
        let time = be64(block, 0x30);
        let wrong = |sequence: u32| {
            Err(Fault::damaged(format!(
                "the checksum of transaction {sequence} is wrong"
            )))
        };
        // A commit from before the last one is left over from an older round of the log.
        let stale = time < self.last_time;
        if self.suspect {
            return if stale {
                Ok(false)
            } else {
                wrong(self.sequence)
            };
        }
        if let Some(broken) = self.broken {
            return wrong(broken);
        }
        if !self.commit_holds(block) {
            if stale {
                return Ok(false);
            }
            if !self.log.head.async_commit {
                return wrong(self.sequence);
            }
            // Written without waiting for its blocks: the last one may be incomplete.
            self.broken = Some(self.sequence);
        }
        self.crc = !0;
        self.last_time = time;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(true)
    }

    fn commit_holds(&self, block: &[u8]) -> bool {
        let (kind, size, found) = (byte(block, HEAD), byte(block, 13), be32(block, 16));
        match self.log.head.checks {
            Checks::None => true,
            Checks::Transaction => {
                let unused = kind == 0 && size == 0 && found == 0;
                unused || (kind == 1 && size == 4 && found == self.crc)
            }
            Checks::Half | Checks::Whole => {
                crc::crc32c_without(self.log.head.seed, block, 16, 4) == found
            }
        }
    }
}
