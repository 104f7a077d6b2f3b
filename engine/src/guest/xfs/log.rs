//! Whether the log is empty ("Journaling Log"). It is a ring of sectors, each of which begins with
//! the number of the round in which it was written: the head is where the round changes. The
//! volume was unmounted where the record in front of the head says so; all else is taken as not
//! written back, and is not replayed.

use super::fields::{be32, be64, byte, index};
use super::superblock::Superblock;
use crate::guest::{Blocks, Fault, OpenOptions, Result, State};

const SECTOR: u64 = 512;
/// First word of a record's head.
const MAGIC: u32 = 0xfeed_babe;
/// Bytes of a record's content for which one sector of the head is enough.
const PER_HEAD: u32 = 32 << 10;
/// Sectors around the head that may have been written out of order: eight records of 256 KiB.
const WINDOW: u64 = 4096;
/// In the flags of an operation: the volume was unmounted.
const UNMOUNT: u8 = 0x20;

/// Looks at the log's end.
///
/// # Errors
/// `Stale` where it does not clearly say that the volume was unmounted, unless that was accepted.
pub(super) fn state(volume: &dyn Blocks, sb: &Superblock, options: &OpenOptions) -> Result<State> {
    if sb.log_start == 0 {
        return options.unreplayed("the log is on another device, which is not here".to_owned());
    }
    let start = sb.place(sb.log_start, sb.log_blocks)?;
    let log = Log {
        volume,
        start,
        sectors: sb.log_blocks.saturating_mul(sb.block_size as u64) / SECTOR,
        uuid: sb.uuid,
    };
    if log.sectors == 0 {
        return Err(Fault::damaged("the log has no blocks"));
    }
    match log.unmounted()? {
        Ok(()) => Ok(State::Clean),
        Err(why) => options.unreplayed(format!(
            "{why}; the log holds what was not written back, and is not replayed yet"
        )),
    }
}

struct Log<'a> {
    volume: &'a dyn Blocks,
    start: u64,
    sectors: u64,
    uuid: [u8; 16],
}

impl Log<'_> {
    fn sector(&self, n: u64) -> Result<Vec<u8>> {
        self.volume.bytes(self.start + n * SECTOR, index(SECTOR))
    }

    /// The round of sector `n`.
    fn round(&self, n: u64) -> Result<u32> {
        Ok(round_of(&self.sector(n)?))
    }

    /// Whether the rounds of all of these sectors are as they should be.
    fn all_of(&self, range: std::ops::Range<u64>, fits: impl Fn(u32) -> bool) -> Result<bool> {
        let len = index(range.end.saturating_sub(range.start) * SECTOR);
        let bytes = self.volume.bytes(self.start + range.start * SECTOR, len)?;
        let mut sectors = bytes.chunks_exact(index(SECTOR));
        Ok(sectors.all(|sector| fits(round_of(sector))))
    }

    /// `Ok(Ok)` where the last record is that of an unmount, otherwise why that is not sure.
    fn unmounted(&self) -> Result<Result<(), &'static str>> {
        let round = self.round(0)?;
        if round == 0 {
            return Ok(Err("the log is empty"));
        }
        let before = round.wrapping_sub(1);
        // The first sector of the round before; none in front of it is of that one. Tools that
        // clear a log leave sectors of no round in the record that they write.
        let (mut low, mut head) = (0, self.sectors);
        while head - low > 1 {
            let middle = low + (head - low) / 2;
            match self.round(middle)? == before {
                true => head = middle,
                false => low = middle,
            }
        }
        let current = |n| n == round || (n == 0 && before != 0);
        let window = WINDOW.min(self.sectors);
        let wrapped = window.saturating_sub(head);
        let after = head..(head + window).min(self.sectors);
        let even = self.all_of(head.saturating_sub(window)..head, current)?
            && self.all_of(self.sectors - wrapped..self.sectors, |n| n == before)?
            && self.all_of(after, |n| n == before)?;
        if !even {
            return Ok(Err("the end of the log was not written in order"));
        }
        self.last_record(head, round)
    }

    /// Looks for the head of the record that ends at sector `head`.
    fn last_record(&self, head: u64, round: u32) -> Result<Result<(), &'static str>> {
        for n in (head.saturating_sub(WINDOW)..head).rev() {
            let record = self.sector(n)?;
            if be32(&record, 0) != MAGIC {
                continue;
            }
            let len = be32(&record, 12);
            let heads = u64::from(be32(&record, 320).div_ceil(PER_HEAD).max(1));
            let end = n.saturating_add(heads) + u64::from(len).div_ceil(SECTOR);
            let own = be64(&record, 16) == u64::from(round) << 32 | n
                && record.get(304..320) == Some(&self.uuid);
            if be32(&record, 8) != 2 || !own || len == 0 || end > head {
                return Ok(Err("the last record of the log makes no sense"));
            }
            if !self.all_of(end..head, |n| n == 0 && round > 1)? {
                return Ok(Err("the log goes on behind its last record"));
            }
            if be32(&record, 40) != 1 {
                return Ok(Err("the volume was not unmounted"));
            }
            let operation = self.sector(n + heads)?;
            return Ok(match byte(&operation, 9) & UNMOUNT {
                0 => Err("the volume was not unmounted"),
                _ => Ok(()),
            });
        }
        Ok(Err("the log has no last record"))
    }
}

fn round_of(sector: &[u8]) -> u32 {
    match be32(sector, 0) {
        MAGIC => be32(sector, 4),
        round => round,
    }
}
