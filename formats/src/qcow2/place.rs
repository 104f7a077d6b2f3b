//! Where data goes in the file: a bump pointer over host clusters.
//!
//! Cluster 0 is the header's. Everything behind the pointer is free; nothing before it is ever
//! given out a second time, so an overlap cannot be planned.

use super::layout::MAX_HOST;
use crate::error::{Error, ErrorKind, Result};
use crate::range::{ClusterIndex, ClusterSize, HostOffset};

/// One contiguous part of a write: as many clusters of the guest as of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first guest cluster.
    pub first: ClusterIndex,
    /// How many clusters.
    pub count: u64,
    /// Where the first one goes.
    pub host: HostOffset,
    /// Whether these host clusters have never been planned before.
    pub fresh: bool,
}

/// The bump pointer.
#[derive(Debug)]
pub(super) struct Place {
    cluster: ClusterSize,
    next: u64,
}

impl Place {
    pub(super) const fn new(cluster: ClusterSize) -> Self {
        Self { cluster, next: 1 }
    }

    /// The first free host cluster.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// The first free byte.
    pub(super) const fn end(&self) -> HostOffset {
        HostOffset::new(self.next << self.cluster.bits())
    }

    /// Gives out one host cluster.
    pub(super) fn take(&mut self) -> Result<u64> {
        let host = self.next;
        if host >= (MAX_HOST >> self.cluster.bits()) - 1 {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the image file would pass 2^56 bytes, more than QCOW2 can address",
            ));
        }
        self.next = host + 1;
        Ok(host)
    }
}
