//! Every change to a memory directory, as a value: what a test reads back, and what a crash
//! simulation replays in part.

use std::sync::Arc;

/// The identity of a file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(pub(super) u64);

/// One change, or one sync that makes earlier ones durable. A directory's state is the replay of
/// its operations, so a legal state after a crash is the replay of a legal part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the calls of the same names"
)]
pub enum Op {
    /// A new file under a name.
    Create { path: String, inode: Inode },
    /// Bytes written.
    Write {
        inode: Inode,
        at: u64,
        bytes: Arc<[u8]>,
    },
    /// A new size.
    SetLen { inode: Inode, len: u64 },
    /// Space reserved, the size extended.
    Allocate { inode: Inode, at: u64, len: u64 },
    /// A range made to read as zero.
    Punch { inode: Inode, at: u64, len: u64 },
    /// Data and size of this file made durable.
    Sync { inode: Inode },
    /// A name moved.
    Rename { from: String, to: String },
    /// A file's name moved over another's.
    Replace { from: String, to: String },
    /// A file's name removed.
    RemoveFile { path: String },
    /// A new directory.
    CreateDir { path: String },
    /// A directory removed.
    RemoveDir { path: String },
    /// The names in a directory made durable.
    SyncDir { path: String },
}

/// What an operation is, for faults and holds. Those that change nothing are not in the log.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the calls")]
pub enum OpKind {
    Open,
    Create,
    Read,
    Write,
    Sync,
    SetLen,
    Allocate,
    Punch,
    Lock,
    Rename,
    RemoveFile,
    CreateDir,
    RemoveDir,
    SyncDir,
    List,
}
