//! Guest file systems in plain user space: the files of a restore point without root and mounts.
//!
//! ```text
//! disks (Blocks) ─> volumes: partition tables, logical volumes ─> detect ─> FileSystem
//!                                                  replayed journal: Overlay ┘
//! ```
//! All of it is hostile input. The rules of every reader:
//! - names are bytes; a link is shown, and followed only by [`path`], inside the guest's own tree;
//! - no panic, no recursion that input controls, no allocation that a field merely claims; loops
//!   are found and bounded; what lies outside of the volume is [`FaultKind::Damaged`];
//! - nothing stale, partial or guessed is shown without saying so: a journal is replayed in
//!   memory, or the volume is refused unless the caller accepts a stale view, and then
//!   [`Facts::state`] says so with every answer.
//!
//! Everything that crosses the traits is owned and serialisable: the readers run in a worker
//! process of their own as well as in ours.

mod blocks;
mod crc;
mod detect;
mod ext;
pub mod extract;
mod fat;
mod fault;
mod features;
mod fields;
mod filesystem;
pub mod glob;
mod holes;
mod node;
mod overlay;
pub mod path;
mod session;
pub mod volumes;
pub mod walk;
mod xfs;

pub use blocks::{Blocks, Cached, Part};
pub use detect::{Found, detect, open};
pub use fault::{Fault, FaultKind, Result};
pub use filesystem::{Facts, FileSystem, OpenOptions, State};
pub use node::{Cursor, Entry, FileType, NodeId, Page, Stat, Stream, Time, Xattr};
pub use overlay::Overlay;
pub use session::{Session, Standing, VolumeFacts};

#[cfg(test)]
pub(crate) mod testing;
