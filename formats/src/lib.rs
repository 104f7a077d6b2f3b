//! Disk image formats as pure plans: QCOW2 reading and writing, raw, changed-extent lists.
//!
//! Nothing here opens a file, a socket or a clock. The crate says *which* bytes belong *where* and
//! in which order; whoever uses it moves them. Every input is treated as hostile: no panic, no
//! allocation that a header merely claims.
#![forbid(unsafe_code)]

pub mod changes;
pub mod error;
pub mod fuzzing;
pub mod qcow2;
pub mod range;
pub mod range_set;
pub mod raw;

pub use changes::ChangeList;
pub use error::{Error, ErrorKind, Result};
pub use range::{ClusterIndex, ClusterSize, GuestOffset, GuestRange, HostOffset};
pub use range_set::RangeSet;
