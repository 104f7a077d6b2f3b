//! Where bytes rest: files and directories behind two small object-safe traits.
//!
//! - [`File`]: positioned reads and writes, each in an asynchronous form for the data path
//!   (buffers are owned, moved in and handed back) and in a blocking form for everything that is
//!   not hot: seal, recovery, map loading, offline tools.
//! - [`Directory`]: names. Create, rename, unlink, sync; paths are relative and stay beneath it.
//!
//! Implementations: `local` (io_uring, or plain positioned I/O where rings are forbidden) and
//! `mem` (for tests: everything in memory, every operation recorded).
//!
//! Invariant: no operation is retried after a failed sync, and no buffer is given back before the
//! kernel is done with it.

mod dir;
mod file;
pub mod local;
mod locked;
pub mod mem;
mod path;

pub use dir::{Create, Directory, Entry, EntryKind, Space};
pub use file::{Extent, File, LocalBoxFuture, LockKind, WriteRun};
pub use locked::LockedFile;
