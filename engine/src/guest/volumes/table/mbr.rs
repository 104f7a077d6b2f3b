//! The partitions of an MBR, logical ones included.

use std::sync::Arc;

use sendense_formats::partition::{LogicalWalk, Mbr, MbrEntry};

use super::{SECTORS, Slot, Table, judge};
use crate::guest::{Blocks, Found, Part, Result, detect};

/// Types whose content is a part of something that is not read, by name.
const LDM: u8 = 0x42;

/// Reads the partitions. The table does not say how long a sector is: 512 bytes, unless only
/// 4096 make sense.
pub(super) fn read(disk: &Arc<dyn Blocks>, mbr: &Mbr) -> Result<Table> {
    let [usual, long] = SECTORS;
    let (slots, notes) = partitions(disk, mbr, usual)?;
    if !disk.size().is_multiple_of(long) || known(disk, &slots)? {
        return Ok(Table::Slots { slots, notes });
    }
    let (other, mut other_notes) = partitions(disk, mbr, long)?;
    let whole = other.iter().all(|slot| slot.fault.is_none());
    if whole && known(disk, &other)? {
        other_notes.push("the partition table counts in sectors of 4096 bytes".to_owned());
        return Ok(Table::Slots {
            slots: other,
            notes: other_notes,
        });
    }
    Ok(Table::Slots { slots, notes })
}

/// Whether something is recognised on one of them at least.
fn known(disk: &Arc<dyn Blocks>, slots: &[Slot]) -> Result<bool> {
    for slot in slots.iter().filter(|slot| slot.fault.is_none()) {
        let part = Part::new(Arc::clone(disk), slot.start, slot.len)?;
        if detect(&part)? != Found::Nothing {
            return Ok(true);
        }
    }
    Ok(false)
}

fn partitions(disk: &Arc<dyn Blocks>, mbr: &Mbr, sector: u64) -> Result<(Vec<Slot>, Vec<String>)> {
    let (mut slots, mut notes) = (Vec::new(), Vec::new());
    for (number, entry) in (1..).zip(mbr.slots) {
        if let Some(entry) = entry.filter(|e| !e.is_extended()) {
            slots.push(slot(number, &entry, sector));
        }
    }
    let mut number = 5;
    for extended in mbr
        .slots
        .into_iter()
        .flatten()
        .filter(MbrEntry::is_extended)
    {
        let mut walk = LogicalWalk::new(extended);
        while let Some(wanted) = walk.wanted() {
            let at = wanted.saturating_mul(sector);
            if at.saturating_add(512) > disk.size() {
                notes.push(format!(
                    "the chain of logical partitions leads outside of the disk at byte {at}: more \
                     may have been there"
                ));
                break;
            }
            match walk.give(&disk.bytes(at, 512)?) {
                Ok(found) => {
                    for entry in found {
                        slots.push(slot(number, &entry, sector));
                        number += 1;
                    }
                }
                Err(e) => notes.push(format!("{e}: more may have been there")),
            }
        }
    }
    judge(&mut slots, disk.size());
    Ok((slots, notes))
}

fn slot(number: u32, entry: &MbrEntry, sector: u64) -> Slot {
    let foreign = entry.kind == LDM;
    Slot {
        number,
        start: entry.start.saturating_mul(sector),
        len: entry.sectors.saturating_mul(sector),
        name: None,
        fault: foreign.then(|| "a dynamic disk (LDM) is not read yet".to_owned()),
    }
}
