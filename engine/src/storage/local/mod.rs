//! Files and directories of this machine.
//!
//! - [`LocalDirectory`] stays beneath its root: no links, no `..`, whatever others do meanwhile.
//! - A file is one open file description, so QEMU's locks on it are one holder's. Where the file
//!   system is known to do it well (ext4, XFS, block devices), it is opened for direct I/O.
//! - With direct I/O, what is not aligned is bounced. An unaligned write reads, changes and writes
//!   back whole units, while nothing else writes to them (`gate`).

mod dir;
mod direct;
mod engine;
mod file;
mod gate;
mod plain;
mod walk;

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, OFlags, openat};

pub use dir::LocalDirectory;
use file::LocalFile;

use super::{Create, File};

/// Creates a directory and its missing parents with this mode, less what the umask takes away, and
/// makes their names durable: also of those that are there already, since an earlier call may have
/// failed after it made them. Links in the path are the caller's to trust. `NotADirectory` where
/// something else has the name.
pub fn create_path(path: &Path, mode: u32) -> io::Result<()> {
    dir::make_path(path, mode, |parent| Ok(rustix::fs::fsync(parent)?))
}

/// Opens one file or block device by its path, which is the caller's to trust: links are followed.
pub fn open_path(path: &Path, how: Create) -> io::Result<Arc<dyn File>> {
    let fd = openat(CWD, path, open_flags(how), NEW_FILE)?;
    Ok(Arc::new(LocalFile::new(fd, how != Create::OpenRead, true)?))
}

/// Opens one file or block device beneath `root`, as [`LocalDirectory`] does: no link is followed
/// behind the root, and nothing leads outside.
pub fn open_beneath(root: &Path, path: &str, how: Create) -> io::Result<Arc<dyn File>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, rustix::fs::Mode::empty())?;
    let mode = if how == Create::New {
        NEW_FILE
    } else {
        rustix::fs::Mode::empty()
    };
    let fd = walk::open(&root, path, open_flags(how), mode)?;
    Ok(Arc::new(LocalFile::new(fd, how != Create::OpenRead, true)?))
}

/// Owner and group of the daemon; the umask may take more away.
const NEW_FILE: rustix::fs::Mode = rustix::fs::Mode::from_raw_mode(0o640);

/// The flags for opening a file. Not blocking, so that a pipe in place of a file cannot hang us;
/// [`LocalFile::new`] takes that back.
fn open_flags(how: Create) -> OFlags {
    let how = match how {
        Create::OpenRead => OFlags::RDONLY,
        Create::OpenWrite => OFlags::RDWR,
        // Without CREATE it means something for block devices alone.
        Create::Claim => OFlags::RDWR | OFlags::EXCL,
        Create::New => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    };
    how | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
}

#[cfg(test)]
mod tests;
