//! Partition tables, from sectors that the caller reads and hands over.
//!
//! Addresses are in sectors of the disk, 512 or 4096 bytes; a table does not say which. What an
//! entry claims is told as it is: whether it fits the disk is for the caller to judge.

pub mod gpt;
pub mod mbr;

pub use gpt::{GptEntry, GptHeader, Guid};
pub use mbr::{LogicalWalk, Mbr, MbrEntry};
