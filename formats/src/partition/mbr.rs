//! The MBR: four slots in sector 0, and a chain of logical partitions inside of an extended one.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::little::{u16_at, u32_at};

/// Bytes of a table, at the beginning of its sector whatever the sector's size.
pub const TABLE_BYTES: usize = 512;
/// Logical partitions that are followed at most: far more than any system shows.
const MAX_LOGICAL: usize = 256;
/// The type of the slot that protects a GPT.
const PROTECTIVE: u8 = 0xee;

/// One used slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbrEntry {
    /// Whether it is marked as active.
    pub bootable: bool,
    /// The type byte, never 0.
    pub kind: u8,
    /// The first sector.
    pub start: u64,
    /// Sectors, never 0.
    pub sectors: u64,
}

impl MbrEntry {
    /// Whether it holds logical partitions instead of a file system.
    pub const fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The table of sector 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mbr {
    /// The disk's identifier; 0 where it has none.
    pub disk_id: u32,
    /// The slots, partition 1 first.
    pub slots: [Option<MbrEntry>; 4],
}

impl Mbr {
    /// Reads a sector of [`TABLE_BYTES`] at least. `None` where it is no table: without the
    /// signature, or with a slot whose mark is neither active nor inactive (boot sectors of file
    /// systems carry the same signature).
    pub fn parse(sector: &[u8]) -> Option<Self> {
        Some(Self {
            disk_id: u32_at(sector, 440)?,
            slots: slots(sector)?,
        })
    }

    /// Whether it only says that the disk has a GPT.
    pub fn is_protective(&self) -> bool {
        self.slots.iter().flatten().any(|e| e.kind == PROTECTIVE)
    }

    /// Whether no slot is used.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

fn slots(sector: &[u8]) -> Option<[Option<MbrEntry>; 4]> {
    if u16_at(sector, 510)? != 0xaa55 {
        return None;
    }
    let mut slots = [None; 4];
    for (index, slot) in slots.iter_mut().enumerate() {
        let at = 446 + index * 16;
        let mark = *sector.get(at)?;
        if mark & 0x7f != 0 {
            return None;
        }
        let entry = MbrEntry {
            bootable: mark != 0,
            kind: *sector.get(at + 4)?,
            start: u64::from(u32_at(sector, at + 8)?),
            sectors: u64::from(u32_at(sector, at + 12)?),
        };
        *slot = (entry.kind != 0 && entry.sectors != 0).then_some(entry);
    }
    Some(slots)
}

/// The way along the logical partitions of one extended partition.
///
/// The caller reads the sector that [`wanted`](Self::wanted) names and hands it to
/// [`give`](Self::give) until nothing is wanted. Loops are found, the count is bounded.
#[derive(Debug, Clone)]
pub struct LogicalWalk {
    extended: MbrEntry,
    wanted: Option<u64>,
    seen: HashSet<u64>,
}

impl LogicalWalk {
    /// Begins at the first table of the extended partition.
    pub fn new(extended: MbrEntry) -> Self {
        Self {
            extended,
            wanted: Some(extended.start),
            seen: HashSet::new(),
        }
    }

    /// The sector to read next; `None` at the end.
    pub fn wanted(&self) -> Option<u64> {
        self.wanted
    }

    /// Takes the sector that was wanted; the partitions in it, with addresses on the disk: one as
    /// a rule, none where it was deleted.
    ///
    /// # Errors
    /// `Malformed` where the chain is broken, leads back or outside of its extended partition,
    /// `TooLarge` where it does not end. The walk is over then; what it gave before stands.
    pub fn give(&mut self, sector: &[u8]) -> Result<Vec<MbrEntry>> {
        let Some(here) = self.wanted.take() else {
            return Ok(Vec::new());
        };
        let bad = |what: &str| {
            Error::new(
                ErrorKind::Malformed,
                format!("the chain of logical partitions {what} at sector {here}"),
            )
        };
        if self.seen.len() >= MAX_LOGICAL {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("more than {MAX_LOGICAL} logical partitions"),
            ));
        }
        self.seen.insert(here);
        let slots = slots(sector).ok_or_else(|| bad("has no table"))?;
        let mut found = Vec::new();
        for (index, entry) in slots.iter().enumerate() {
            let Some(entry) = entry.filter(|e| !e.is_extended()) else {
                continue;
            };
            // Relative to this table. The last two slots often hold leftovers.
            let start = here.saturating_add(entry.start);
            if index < 2 || self.contains(start, entry.sectors) {
                found.push(MbrEntry { start, ..entry });
            }
        }
        let link = slots.iter().flatten().find(|e| e.is_extended());
        if let Some(link) = link {
            // Relative to the extended partition.
            let next = self.extended.start.saturating_add(link.start);
            if !self.contains(next, 1) {
                return Err(bad("leads outside of its extended partition"));
            }
            if self.seen.contains(&next) {
                return Err(bad("leads back to where it was"));
            }
            self.wanted = Some(next);
        }
        Ok(found)
    }

    fn contains(&self, start: u64, sectors: u64) -> bool {
        let end = self.extended.start.saturating_add(self.extended.sectors);
        start >= self.extended.start && start.saturating_add(sectors) <= end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u8, u32, u32)]) -> Vec<u8> {
        let mut sector = vec![0; TABLE_BYTES];
        for (slot, (kind, start, sectors)) in entries.iter().enumerate() {
            let at = 446 + slot * 16;
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn a_boot_sector_of_a_file_system_is_no_table() {
        let mut sector = table(&[(0x83, 2048, 100)]);
        assert_eq!(Mbr::parse(&sector).unwrap().slots[0].unwrap().start, 2048);
        sector[446] = b'o';
        assert_eq!(Mbr::parse(&sector), None);
        assert_eq!(Mbr::parse(&[0; 512]), None);
        assert_eq!(Mbr::parse(&sector[..511]), None);
    }

    #[test]
    fn a_chain_is_followed_and_a_loop_or_a_way_out_is_found() {
        let extended = MbrEntry {
            bootable: false,
            kind: 5,
            start: 1000,
            sectors: 1000,
        };
        let mut walk = LogicalWalk::new(extended);
        assert_eq!(walk.wanted(), Some(1000));
        let first = walk.give(&table(&[(0x83, 1, 99), (5, 100, 100)])).unwrap();
        assert_eq!((first[0].start, first[0].sectors), (1001, 99));
        assert_eq!(walk.wanted(), Some(1100));
        // A deleted partition, and leftovers in slots that nobody uses.
        let none = walk.give(&table(&[(0, 0, 0), (5, 300, 100), (0x83, 5000, 9)]));
        assert_eq!(none.unwrap(), []);
        assert_eq!(walk.wanted(), Some(1300));
        let back = walk.give(&table(&[(0x83, 1, 9), (5, 100, 100)]));
        assert_eq!(back.unwrap_err().kind, ErrorKind::Malformed);
        assert_eq!(walk.wanted(), None);

        let mut walk = LogicalWalk::new(extended);
        assert!(walk.give(&table(&[(0x83, 1, 9), (5, 1000, 1)])).is_err());
        let mut walk = LogicalWalk::new(extended);
        assert!(walk.give(&[0; 512]).is_err());
    }

    #[test]
    fn a_chain_without_an_end_is_cut() {
        let mut walk = LogicalWalk::new(MbrEntry {
            bootable: false,
            kind: 5,
            start: 0,
            sectors: u64::from(u32::MAX),
        });
        let mut next = 0;
        let ended = loop {
            next += 1;
            if let Err(e) = walk.give(&table(&[(0x83, 1, 1), (5, next, 1)])) {
                break e;
            }
        };
        assert_eq!(ended.kind, ErrorKind::TooLarge);
        assert!(next < 1000);
    }
}
