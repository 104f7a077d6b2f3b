//! The records of fast commits, as they stand one after the other in the journal.

use std::ops::Range;

use crate::guest::ext::crc;
use crate::guest::ext::fields::{index, le16, le32};
use crate::guest::ext::journal::Log;
use crate::guest::ext::store::Store;
use crate::guest::{Fault, Result};

/// Bytes in front of a record: what it is, and its length.
const HEAD: usize = 4;
pub(super) const ADD_RANGE: u16 = 1;
pub(super) const DEL_RANGE: u16 = 2;
pub(super) const CREATE: u16 = 3;
pub(super) const LINK: u16 = 4;
pub(super) const UNLINK: u16 = 5;
pub(super) const INODE: u16 = 6;
const PAD: u16 = 7;
const TAIL: u16 = 8;
const FIRST: u16 = 9;

/// One record.
pub(super) struct Record {
    pub(super) tag: u16,
    pub(super) value: Vec<u8>,
}

/// The records of all complete fast commits behind the transaction before `sequence`, and how
/// many commits those are.
///
/// # Errors
/// `Damaged` where a complete one follows one that is not: each was written once the one before
/// it was safe, so only the last may be incomplete.
pub(super) fn complete(
    log: &Log<'_>,
    area: Range<u32>,
    sequence: u32,
    store: &Store,
) -> Result<(Vec<Record>, usize)> {
    let mut walk = Walk {
        store,
        sequence,
        all: Vec::new(),
        pending: Vec::new(),
        commits: 0,
        crc: 0,
        broken: false,
    };
    for (n, number) in area.enumerate() {
        let block = log.block(number)?;
        if (n == 0 && le16(&block, 0) != FIRST) || !walk.block(&block)? {
            break;
        }
    }
    Ok((walk.all, walk.commits))
}

struct Walk<'a> {
    store: &'a Store,
    sequence: u32,
    all: Vec<Record>,
    /// Those of the commit that has not come to its end yet.
    pending: Vec<Record>,
    commits: usize,
    /// Over the commit so far.
    crc: u32,
    /// A commit was not what was written: what follows must be left over from older rounds.
    broken: bool,
}

impl Walk<'_> {
    /// Steps through a block; false where nothing of this round follows.
    fn block(&mut self, block: &[u8]) -> Result<bool> {
        let mut at = 0;
        while at + HEAD <= block.len() {
            let (tag, len) = (le16(block, at), index(le16(block, at + 2)));
            let value = block.get(at + HEAD..at + HEAD + len);
            let Some(value) = value.filter(|_| fits(self.store, tag, len)) else {
                self.give_up();
                return Ok(true);
            };
            // The last record fills its block: what counts of it ends in front of the checksum.
            let covered = if tag == TAIL { HEAD + 4 } else { HEAD + len };
            let covered = block.get(at..at + covered).unwrap_or_default();
            self.crc = crc::crc32c(self.crc, covered);
            match tag {
                FIRST if le32(value, 4) != self.sequence => return Ok(false),
                FIRST if le32(value, 0) != 0 => {
                    let features = le32(value, 0);
                    return Err(Fault::unsupported(format!(
                        "features of fast commits {features:#x}"
                    )));
                }
                TAIL => self.tail(value)?,
                _ => self.pending.push(Record {
                    tag,
                    value: value.to_vec(),
                }),
            }
            at += HEAD + len;
        }
        Ok(true)
    }

    fn tail(&mut self, value: &[u8]) -> Result<()> {
        if le32(value, 0) != self.sequence || le32(value, 4) != self.crc {
            self.give_up();
            return Ok(());
        }
        if self.broken {
            return Err(Fault::damaged(
                "a fast commit is damaged and others follow it",
            ));
        }
        self.all.append(&mut self.pending);
        self.commits += 1;
        self.crc = 0;
        Ok(())
    }

    fn give_up(&mut self) {
        self.pending.clear();
        self.crc = 0;
        self.broken = true;
    }
}

/// Whether a record of a kind may have that length.
fn fits(store: &Store, tag: u16, len: usize) -> bool {
    match tag {
        ADD_RANGE => len == 16,
        DEL_RANGE => len == 12,
        CREATE | LINK | UNLINK => (9..=8 + 255).contains(&len),
        INODE => (4 + 128..=4 + store.sb.inode_size).contains(&len),
        PAD => true,
        TAIL => len >= 8,
        FIRST => len == 8,
        _ => false,
    }
}
