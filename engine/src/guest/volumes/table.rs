//! The partition table of one disk.

mod gpt;
mod mbr;

use std::sync::Arc;

use sendense_formats::partition::Mbr;

use crate::guest::{Blocks, Found, Result};

/// Bytes of a sector that a table may count in.
const SECTORS: [u64; 2] = [512, 4096];

/// Partitions of one table that are looked at: as many as Linux shows.
const MAX_LOOKED_AT: usize = 256;

/// What a disk's table says.
#[derive(Debug)]
pub(super) enum Table {
    /// There is none.
    None,
    /// There is one, and it cannot be read, with the reason.
    Broken(String),
    /// Its partitions.
    Slots {
        slots: Vec<Slot>,
        /// What is to be known of all of them.
        notes: Vec<String>,
    },
}

/// One partition.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Its number, from 1, as Linux counts.
    pub(super) number: u32,
    /// The first byte.
    pub(super) start: u64,
    /// Bytes.
    pub(super) len: u64,
    /// The table's name for it.
    pub(super) name: Option<String>,
    /// Why it cannot be looked at.
    pub(super) fault: Option<String>,
}

/// Reads the table of a disk, on which as a whole this was found.
pub(super) fn read(disk: &Arc<dyn Blocks>, found: Found) -> Result<Table> {
    if disk.size() < SECTORS[0] {
        return Ok(Table::None);
    }
    let mbr = Mbr::parse(&disk.bytes(0, 512)?);
    if let Some(mbr) = mbr.filter(|mbr| !mbr.is_empty() && !mbr.is_protective()) {
        return mbr::read(disk, &mbr);
    }
    let protected = mbr.is_some_and(|mbr| mbr.is_protective());
    // Without the protective entry it may be a leftover under a file system.
    if !protected && found != Found::Nothing {
        return Ok(Table::None);
    }
    let mut table = gpt::read(disk, protected)?;
    if let (Table::Slots { notes, .. }, false) = (&mut table, protected) {
        notes.push("there is no protective MBR before the GPT".to_owned());
    }
    Ok(table)
}

/// Marks what lies outside of the disk and what lies over another one.
fn judge(slots: &mut [Slot], disk: u64) {
    for slot in slots.iter_mut() {
        let end = slot.start.checked_add(slot.len);
        if slot.len == 0 {
            set(slot, "the partition ends before it begins".to_owned());
        } else if end.is_none_or(|end| end > disk) {
            let what = format!(
                "the partition lies outside of the disk: {} bytes at {} of {disk}",
                slot.len, slot.start
            );
            set(slot, what);
        }
    }
    for slot in slots.iter_mut().skip(MAX_LOOKED_AT) {
        set(
            slot,
            format!("only the first {MAX_LOOKED_AT} partitions are looked at"),
        );
    }
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|n| slots.get(*n).map(|s| (s.start, s.number)));
    // The one that reaches furthest of those that begin earlier.
    let mut reach: Option<(usize, u64)> = None;
    for n in order {
        let Some((start, end)) = slots
            .get(n)
            .map(|s| (s.start, s.start.saturating_add(s.len)))
        else {
            continue;
        };
        if let Some((other, far)) = reach
            && start < far
        {
            for (this, that) in [(n, other), (other, n)] {
                let number = slots.get(that).map_or(0, |s| s.number);
                if let Some(slot) = slots.get_mut(this) {
                    set(
                        slot,
                        format!("the partition overlaps with partition {number}"),
                    );
                }
            }
        }
        if reach.is_none_or(|(_, far)| end > far) {
            reach = Some((n, end));
        }
    }
}

/// The first reason stays.
fn set(slot: &mut Slot, why: String) {
    slot.fault.get_or_insert(why);
}
