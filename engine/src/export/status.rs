//! Collecting the extents of BLOCK_STATUS.

use sendense_nbd::StatusExtent;

/// `base:allocation`: not allocated.
pub(super) const HOLE: u32 = 1;
/// `base:allocation`: reads as zero.
pub(super) const ZERO: u32 = 2;
/// `qemu:dirty-bitmap:`: changed.
pub(super) const DIRTY: u32 = 1;

/// Extents in order, neighbours with the same flags merged, at most `max`.
#[derive(Debug)]
pub(super) struct Extents {
    list: Vec<StatusExtent>,
    max: usize,
    full: bool,
}

impl Extents {
    pub(super) fn new(max: usize) -> Self {
        Self {
            list: Vec::new(),
            max: max.max(1),
            full: false,
        }
    }

    /// Adds the next extent; once full, everything is ignored.
    pub(super) fn push(&mut self, len: u64, flags: u32) {
        if self.full || len == 0 {
            return;
        }
        if let Some(last) = self.list.last_mut()
            && last.flags == flags
        {
            last.len = last.len.saturating_add(len);
        } else if self.list.len() < self.max {
            self.list.push(StatusExtent { len, flags });
        } else {
            self.full = true;
        }
    }

    /// Whether nothing more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn into_list(self) -> Vec<StatusExtent> {
        self.list
    }
}
