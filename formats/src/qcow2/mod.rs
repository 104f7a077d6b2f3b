//! QCOW2: reading any image that QEMU writes, checking it, and writing ours.
//!
//! Nothing here does I/O: parts ask for bytes by host offset and get them.

pub mod layout;
pub mod table;

mod backing;
mod bytes;
mod check;
mod codec;
mod header;
mod map;
mod mapping;
mod open;
mod place;
mod refcount;
mod seal;
mod slots;
mod writer;

pub use backing::{BackingRule, OpenPolicy, safe_backing_name};
pub use check::{CheckReport, Finding, Severity, check, repair_leaks};
pub use codec::decompress;
pub use header::{Backing, BitmapDirectory, Compression, Extension, Header};
pub use map::{Image, TableAt};
pub use mapping::{Mapping, Target};
pub use open::{OpenError, OpenStep, Opener, ReadAt, open};
pub use place::Run;
pub use refcount::RefcountShape;
pub use seal::Seal;
pub use table::{L1Entry, L2Entry, L2Kind, Subcluster, TableShape};
pub use writer::{
    Counts, CreateOptions, Outcome, Slot, WritePlan, Writer, image_size, is_image_size,
};
