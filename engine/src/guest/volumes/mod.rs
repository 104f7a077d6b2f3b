//! The volumes on the disks of one machine, all looked at together.
//!
//! ```text
//! disk ─> table (GPT, MBR) ─> partitions ─┬─> content
//!   └────────── without one ──────────────┴─> physical volumes ─> groups ─> logical volumes
//! ```
//! What is there and cannot be put together is shown with the reason, never left out and never
//! shown as empty.

mod group;
mod ids;
mod mapped;
mod physical;
mod summary;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Blocks, Cached, Found, Part, Result, detect};
use ids::Ids;
use table::Table;

pub use summary::Summary;

/// Memory for looking at one disk's signatures and tables, in bytes.
const LOOK: usize = 1 << 20;

/// Where a volume comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The whole disk, without a table.
    Disk,
    /// A partition.
    Partition,
    /// A logical volume.
    Logical,
}

/// One disk to look at.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its number in the restore point.
    pub number: u32,
    /// Its bytes.
    pub blocks: Arc<dyn Blocks>,
}

/// One volume: something that may hold a file system.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Stable within the restore point and fit for a path: `disk0`, `disk0-part2`, `vg0-root`.
    /// Hyphens inside of the names of groups and logical volumes are doubled, as Linux does.
    pub id: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The disks that it lies on, ascending.
    pub disks: Vec<u32>,
    /// Bytes.
    pub size: u64,
    /// The table's own name for it, where there is one.
    pub name: Option<String>,
    /// What stands on it, or why it cannot be looked at: shown, never left out.
    pub content: Content,
    /// What else is to be known about it: a table that was read from its backup, a group that a
    /// physical volume belongs to.
    pub notes: Vec<String>,
}

/// What stands on a volume.
#[derive(Debug, Clone)]
pub enum Content {
    /// Something that can be looked at.
    Blocks {
        /// Its bytes.
        blocks: Arc<dyn Blocks>,
        /// What its signatures say.
        found: Found,
    },
    /// It is known to be there and cannot be put together, with the reason.
    Unavailable(String),
}

/// Finds the volumes of all disks: by disk, then the logical volumes by group. A disk that makes
/// no sense is one volume that says so; it never keeps the others from being found.
///
/// # Errors
/// Where a disk cannot be read: what is only unreachable now must not look like something missing.
pub fn volumes(disks: &[Disk]) -> Result<Vec<Volume>> {
    let mut ids = Ids::default();
    let mut all = Vec::new();
    for disk in disks {
        let found = of_disk(disk).map_err(|fault| fault.at(ids::disk(disk.number)))?;
        all.extend(found.into_iter().map(|volume| Volume {
            id: ids.take(volume.id),
            ..volume
        }));
    }
    let logical = group::assemble(&mut all)?;
    all.extend(logical.into_iter().map(|volume| Volume {
        id: ids.take(volume.id),
        ..volume
    }));
    Ok(all)
}

/// What the signatures say.
fn look(blocks: &Arc<dyn Blocks>) -> Result<Found> {
    detect(&Cached::new(Arc::clone(blocks), LOOK))
}

fn of_disk(disk: &Disk) -> Result<Vec<Volume>> {
    let found = look(&disk.blocks)?;
    let view: Arc<dyn Blocks> = Arc::new(Cached::new(Arc::clone(&disk.blocks), LOOK));
    let whole = |content, notes| Volume {
        id: ids::disk(disk.number),
        origin: Origin::Disk,
        disks: vec![disk.number],
        size: disk.blocks.size(),
        name: None,
        content,
        notes,
    };
    let content = Content::Blocks {
        blocks: Arc::clone(&disk.blocks),
        found,
    };
    let (slots, notes) = match table::read(&view, found)? {
        Table::None => return Ok(vec![whole(content, Vec::new())]),
        // What is left of a table does not hide what stands on the whole disk.
        Table::Broken(why) if found != Found::Nothing => {
            return Ok(vec![whole(content, vec![why])]);
        }
        Table::Broken(why) => return Ok(vec![whole(Content::Unavailable(why), Vec::new())]),
        Table::Slots { slots, notes } => (slots, notes),
    };
    let mut all = Vec::new();
    if found != Found::Nothing || slots.is_empty() {
        // One of the two is a leftover, and nothing here knows which.
        let mut notes = notes.clone();
        if slots.is_empty() {
            notes.push("the disk has a partition table without partitions".to_owned());
        } else {
            notes.push(
                "the disk has a partition table too: one of the two may be a leftover".to_owned(),
            );
        }
        all.push(whole(content, notes));
    }
    for slot in slots {
        let content = match slot.fault {
            Some(why) => Content::Unavailable(why),
            None => {
                let part = Part::new(Arc::clone(&disk.blocks), slot.start, slot.len)?;
                let blocks: Arc<dyn Blocks> = Arc::new(part);
                let found = look(&blocks)?;
                Content::Blocks { blocks, found }
            }
        };
        all.push(Volume {
            id: ids::partition(disk.number, slot.number),
            origin: Origin::Partition,
            disks: vec![disk.number],
            size: slot.len,
            name: slot.name,
            content,
            notes: notes.clone(),
        });
    }
    Ok(all)
}
