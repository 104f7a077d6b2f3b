//! The volumes on the disks of one machine, all looked at together.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Blocks, Found, Result, detect};

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

/// Finds the volumes of all disks. A disk that makes no sense is one volume that says so; it
/// never keeps the others from being found.
///
/// # Errors
/// Where a disk cannot be read.
pub fn volumes(disks: &[Disk]) -> Result<Vec<Volume>> {
    let mut all = Vec::new();
    for disk in disks {
        let found = detect(&disk.blocks)?;
        all.push(Volume {
            id: format!("disk{}", disk.number),
            origin: Origin::Disk,
            disks: vec![disk.number],
            size: disk.blocks.size(),
            name: None,
            content: Content::Blocks {
                blocks: Arc::clone(&disk.blocks),
                found,
            },
        });
    }
    Ok(all)
}
