//! Where the blocks of a file stand.

use super::inode::{Inode, flag};
use super::store::Store;
use super::{extents, indirect};
use crate::guest::Result;

/// Blocks of a file in one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block on the volume; `None` where nothing was ever written: it reads zero.
    pub(super) at: Option<u64>,
    /// How many, 1 at least.
    pub(super) len: u64,
}

impl Run {
    pub(super) fn hole(len: u64) -> Self {
        Self {
            at: None,
            len: len.max(1),
        }
    }

    pub(super) fn data(at: u64, len: u64) -> Self {
        Self {
            at: Some(at),
            len: len.max(1),
        }
    }
}

/// The blocks from `logical` on.
///
/// # Errors
/// `Damaged` where the file's map makes no sense.
pub(super) fn find(store: &Store, inode: &Inode, logical: u64) -> Result<Run> {
    let place = |fault: crate::guest::Fault| fault.at(format!("inode {}", inode.number));
    let newer = store.recent.range(inode.number, logical);
    if let Some(Ok(run)) = newer {
        return Ok(run);
    }
    let run = match inode.has(flag::EXTENTS) {
        true => extents::find(store, inode, logical),
        false => indirect::find(store, inode, logical),
    };
    let mut run = run.map_err(place)?;
    if let Some(Err(until)) = newer {
        run.len = run.len.min(until).max(1);
    }
    Ok(run)
}
