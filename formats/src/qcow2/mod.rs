//! QCOW2: reading any image that QEMU writes, checking it, and writing ours.
//!
//! Nothing here does I/O: parts ask for bytes by host offset and get them.

pub mod layout;
pub mod table;

mod backing;
mod bytes;
mod header;

pub use backing::{BackingRule, OpenPolicy, safe_backing_name};
pub use header::{Backing, BitmapDirectory, Compression, Extension, Header};
pub use table::{L1Entry, L2Entry, L2Kind, Subcluster, TableShape};
