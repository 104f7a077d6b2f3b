//! What an image says about a run of guest bytes: the answer of a reader's and a writer's map.

use crate::range::{GuestRange, HostOffset};

/// A run of guest bytes and where its content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The guest bytes; never empty.
    pub range: GuestRange,
    /// Where their content comes from.
    pub target: Target,
}

/// Where the content of guest bytes comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Not from this image: the parent's bytes, or zero without a parent.
    Unallocated,
    /// Zero, whatever the parent holds.
    Zero {
        /// The host cluster that is kept for it, if any.
        host: Option<HostOffset>,
    },
    /// As they are, from this byte of the file on. Behind the file's end they are zero.
    Data {
        /// The byte of the file.
        host: HostOffset,
    },
    /// Packed. The range lies inside of exactly one cluster, and the packed bytes are those of the
    /// whole cluster.
    Compressed {
        /// The first byte of the packed data.
        host: HostOffset,
        /// Its length at most, in bytes, inside of the file.
        len: usize,
    },
}
