//! The table and the chains in it.

use std::sync::Arc;

use super::boot::{Boot, Kind};
use crate::guest::{Blocks, Fault, Result};

/// A volume and its boot sector.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) boot: Boot,
}

impl Store {
    /// Where a cluster stands on the volume.
    ///
    /// # Errors
    /// `Damaged` for a number that is no cluster.
    pub(super) fn place(&self, cluster: u32) -> Result<u64> {
        if cluster < 2 || cluster >= self.boot.end {
            return Err(Fault::damaged(format!(
                "cluster {cluster} lies outside of {}",
                self.boot.end
            )));
        }
        let before = u64::from(cluster - 2) * u64::from(self.boot.cluster_size);
        Ok(self.boot.data + before)
    }

    /// The cluster behind another one; `None` at the end of the chain.
    ///
    /// # Errors
    /// `Damaged` for a number that is no cluster, on either side.
    pub(super) fn next(&self, cluster: u32) -> Result<Option<u32>> {
        self.place(cluster)?;
        let number = u64::from(cluster);
        let mut raw = [0; 4];
        let (at, width) = match self.boot.kind {
            Kind::Fat12 => (number + number / 2, 2),
            Kind::Fat16 => (number * 2, 2),
            Kind::Fat32 => (number * 4, 4),
        };
        let to = raw.get_mut(..width).unwrap_or_default();
        self.blocks.read_at(self.boot.table + at, to)?;
        let raw = u32::from_le_bytes(raw);
        let (next, last) = match self.boot.kind {
            Kind::Fat12 if cluster % 2 == 1 => (raw >> 4, 0xff8),
            Kind::Fat12 => (raw & 0xfff, 0xff8),
            Kind::Fat16 => (raw, 0xfff8),
            Kind::Fat32 => (raw & 0x0fff_ffff, 0x0fff_fff8),
        };
        if next >= last {
            return Ok(None);
        }
        let place = self.place(next);
        place.map_err(|fault| fault.at(format!("behind cluster {cluster}")))?;
        Ok(Some(next))
    }

    /// How many clusters a chain has. A loop has more than `most`, so it is found.
    ///
    /// # Errors
    /// `Damaged` for a chain that is longer than `most` or leads outside of the volume.
    pub(super) fn count(&self, first: u32, most: u64, mut each: impl FnMut(u32)) -> Result<u64> {
        self.place(first)?;
        let most = most.min(self.boot.end.into());
        let (mut here, mut count) = (first, 0);
        loop {
            each(here);
            count += 1;
            match self.next(here)? {
                None => return Ok(count),
                Some(_) if count >= most => {
                    return Err(Fault::damaged(format!(
                        "the chain from cluster {first} on is a loop, or longer than {most} clusters"
                    )));
                }
                Some(next) => here = next,
            }
        }
    }
}
