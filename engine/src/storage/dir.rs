//! A directory tree: names, and the syncs that make names durable.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use super::File;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// An existing file, to read.
    OpenRead,
    /// An existing file, to read and write.
    OpenWrite,
    /// As [`OpenWrite`](Self::OpenWrite), and a block device for us alone: one that is mounted, or
    /// that another program has claimed, is `ResourceBusy`.
    Claim,
    /// A new file, to read and write; an existing name is `AlreadyExists`.
    New,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link, device or socket: never followed, never opened.
    Other,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component. Names that are not UTF-8 are left out: we never make them.
    pub name: String,
    /// What it stands for.
    pub kind: EntryKind,
}

/// Capacity of the file system beneath a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that we may still use.
    pub available: u64,
}

/// A directory tree. All calls block; the data path never makes them.
///
/// Paths are relative, `/`-separated, without empty, `.` or `..` components; links are never
/// followed. A violation is `InvalidInput`.
pub trait Directory: Send + Sync + Debug + 'static {
    /// Opens or creates a file.
    fn open(&self, path: &str, how: Create) -> io::Result<Arc<dyn File>>;

    /// Creates a directory and its missing parents, and syncs the parent of each, also of those that
    /// are there already: an earlier call may have failed after it made them.
    fn create_dirs(&self, path: &str) -> io::Result<()>;

    /// Renames within the tree, never replacing: an existing target is `AlreadyExists`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Renames a file over another one of the tree in a single step: `to` is the old file or the
    /// new one at any time, never none. Where nothing is called `to`, it is a rename.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; a missing one is `NotFound`.
    fn remove_file(&self, path: &str) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// The names in a directory (`""` is the root), sorted.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;

    /// Makes the names in a directory durable (fsync).
    fn sync_dir(&self, path: &str) -> io::Result<()>;

    /// Capacity.
    fn space(&self) -> io::Result<Space>;

    /// Reads a small file whole; more than `limit` bytes is `InvalidData`.
    fn read_small(&self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path, Create::OpenRead)?;
        let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
        if len > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{path} has {len} bytes, more than the {limit} that it may have"),
            ));
        }
        let mut bytes = vec![0; len];
        file.read_at_blocking(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a small new file and syncs its content, not yet its name.
    fn write_small(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(path, Create::New)?;
        file.write_at_blocking(0, bytes)?;
        file.sync_blocking()
    }
}
