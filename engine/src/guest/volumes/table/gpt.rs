//! A GPT, from its first header or from the backup.

use std::sync::Arc;

use sendense_formats::partition::gpt::MAGIC;
use sendense_formats::partition::{GptEntry, GptHeader};

use super::{SECTORS, Slot, Table, judge};
use crate::guest::{Blocks, Result};

/// Types whose content is a part of something that is not read, by name.
const FOREIGN: &[(&str, &str)] = &[
    (
        "AF9B60A0-1431-4F62-BC68-3311714A69AD",
        "a dynamic disk (LDM) is not read yet",
    ),
    (
        "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3",
        "the database of a dynamic disk (LDM) is not read yet",
    ),
    (
        "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D",
        "Storage Spaces are not read yet",
    ),
];

/// A header and the entries that it vouches for.
type Read = Result<(GptHeader, Vec<GptEntry>), String>;

/// Reads the GPT of a disk. Where the MBR promises one, its absence is damage.
pub(super) fn read(disk: &Arc<dyn Blocks>, promised: bool) -> Result<Table> {
    let mut signed = promised;
    let mut whys = Vec::new();
    for sector in SECTORS {
        match at(disk, sector, 1)? {
            Some(Ok((_, entries))) => return Ok(table(disk, sector, &entries, Vec::new())),
            Some(Err(why)) => {
                signed = true;
                whys.push(format!("the GPT at byte {sector}: {why}"));
            }
            None => {}
        }
    }
    if !signed {
        return Ok(Table::None);
    }
    if whys.is_empty() {
        whys.push("the GPT at the beginning of the disk is gone".to_owned());
    }
    for sector in SECTORS {
        let last = (disk.size() / sector).saturating_sub(1);
        match at(disk, sector, last)? {
            Some(Ok((_, entries))) => {
                let notes = vec![format!(
                    "{}; the partitions are those of the backup at the end of the disk",
                    whys.join("; ")
                )];
                return Ok(table(disk, sector, &entries, notes));
            }
            Some(Err(why)) => whys.push(format!("the backup: {why}")),
            None => {}
        }
    }
    whys.push("no sound backup stands at the end of the disk".to_owned());
    Ok(Table::Broken(whys.join("; ")))
}

/// The header at a sector and its entries; `None` where no header stands there.
fn at(disk: &Arc<dyn Blocks>, sector: u64, lba: u64) -> Result<Option<Read>> {
    let Some(start) = lba.checked_mul(sector) else {
        return Ok(None);
    };
    let len = usize::try_from(sector).unwrap_or(512);
    if lba == 0 || start.saturating_add(sector) > disk.size() {
        return Ok(None);
    }
    let bytes = disk.bytes(start, len)?;
    if !bytes.starts_with(MAGIC) {
        return Ok(None);
    }
    let header = match GptHeader::parse(&bytes, lba) {
        Ok(header) => header,
        Err(e) => return Ok(Some(Err(e.to_string()))),
    };
    let begin = header.entries_at.checked_mul(sector);
    let end = begin.and_then(|at| at.checked_add(header.entries_len() as u64));
    let Some(begin) = begin.filter(|_| end.is_some_and(|end| end <= disk.size())) else {
        return Ok(Some(Err("the entries lie outside of the disk".to_owned())));
    };
    let entries = header.entries(&disk.bytes(begin, header.entries_len())?);
    Ok(Some(match entries {
        Ok(entries) => Ok((header, entries)),
        Err(e) => Err(e.to_string()),
    }))
}

fn table(disk: &Arc<dyn Blocks>, sector: u64, entries: &[GptEntry], notes: Vec<String>) -> Table {
    let mut slots: Vec<Slot> = entries.iter().map(|e| slot(e, sector)).collect();
    judge(&mut slots, disk.size());
    Table::Slots { slots, notes }
}

fn slot(entry: &GptEntry, sector: u64) -> Slot {
    let sectors = match entry.last.checked_sub(entry.first) {
        Some(more) => more.saturating_add(1),
        None => 0,
    };
    let kind = entry.kind.to_string();
    let foreign = FOREIGN.iter().find(|(guid, _)| *guid == kind);
    Slot {
        number: entry.number,
        start: entry.first.saturating_mul(sector),
        len: sectors.saturating_mul(sector),
        name: (!entry.name.is_empty()).then(|| entry.name.clone()),
        fault: foreign.map(|(_, why)| (*why).to_owned()),
    }
}
