//! The contract of every reader.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Cursor, Entry, Fault, FaultKind, NodeId, Page, Result, Stat, Stream, Xattr};

/// Whether what is shown is the file system as its own driver would show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// Nothing was pending.
    Clean,
    /// The journal was replayed in memory.
    Replayed {
        /// What was replayed.
        reason: String,
    },
    /// The journal holds what is not shown: names and content may be old or wrong. Only where the
    /// caller accepted that.
    Unreplayed {
        /// Why it was not replayed.
        reason: String,
    },
}

impl State {
    /// What every answer must carry, where something is not as it should be.
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::Unreplayed { reason } => Some(reason),
            Self::Clean | Self::Replayed { .. } => None,
        }
    }
}

/// What a file system says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `ext4`, `xfs`, `ntfs`, `fat32`, ...
    pub kind: String,
    /// The label, where there is one; not necessarily UTF-8 in the guest, shown readably here.
    pub label: Option<String>,
    /// The identifier as the guest's tools print it.
    pub uuid: Option<String>,
    /// Bytes that the file system spans.
    pub size: u64,
    /// Bytes of one allocation unit.
    pub block_size: u32,
    /// Whether it is shown as its own driver would.
    pub state: State,
}

/// How a file system is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Show what the volume holds where its journal cannot be replayed, with a warning.
    pub accept_stale: bool,
    /// Memory for replayed blocks, in bytes.
    pub replay_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            accept_stale: false,
            replay_bytes: 256 << 20,
        }
    }
}

impl OpenOptions {
    /// The state of a volume whose journal cannot be replayed.
    ///
    /// # Errors
    /// `Stale`, unless that was accepted.
    pub fn unreplayed(&self, reason: String) -> Result<State> {
        if self.accept_stale {
            return Ok(State::Unreplayed { reason });
        }
        Err(Fault::new(
            FaultKind::Stale,
            format!("{reason}; ask for a stale view to see it all the same"),
        ))
    }
}

/// An open guest file system. Read-only, blocking; memory is bounded by the reader's own caches.
///
/// Errors are [`FaultKind::NotFound`] for a node, name or stream that is not there,
/// [`FaultKind::WrongType`] for a call that does not fit the node, [`FaultKind::Damaged`] and
/// [`FaultKind::Unsupported`] for the structure at hand; others stay readable.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// What it says of itself.
    fn facts(&self) -> &Facts;

    /// The root directory.
    fn root(&self) -> NodeId;

    /// A part of a directory: at most `most` names (1 at least) from `from` on.
    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page>;

    /// The node of a name. `name` is one component; `.` and `..` are not found.
    ///
    /// The default walks the directory; a reader with an index, or whose names do not tell cases
    /// apart, overrides it.
    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        let mut from = Cursor::default();
        loop {
            let page = self.list(dir, from, 1024)?;
            if let Some(entry) = page.entries.into_iter().find(|e| e.name == name) {
                return Ok(entry);
            }
            match page.next {
                Some(next) if next != from => from = next,
                Some(_) => return Err(Fault::damaged("a directory does not end")),
                None => break,
            }
        }
        Err(Fault::new(
            FaultKind::NotFound,
            format!("there is no {:?} here", String::from_utf8_lossy(name)),
        ))
    }

    /// The facts of a node.
    fn stat(&self, node: NodeId) -> Result<Stat>;

    /// Reads content, or a named stream, at `at`; how much, which is less than `buf` only at the
    /// end.
    fn read(&self, node: NodeId, stream: Option<&[u8]>, at: u64, buf: &mut [u8]) -> Result<usize>;

    /// The next bytes at or behind `from` that are no hole; `None` where only holes follow. A
    /// reader that does not know answers the rest.
    fn data(&self, node: NodeId, stream: Option<&[u8]>, from: u64) -> Result<Option<Range<u64>>>;

    /// Where a link points, as the guest wrote it.
    fn link(&self, node: NodeId) -> Result<Vec<u8>>;

    /// Extended attributes, access control lists among them.
    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>>;

    /// Named streams.
    fn streams(&self, node: NodeId) -> Result<Vec<Stream>>;
}
