//! ext2, ext3 and ext4.
//!
//! Written from the kernel's documents of the format ("ext4 Data Structures and Algorithms",
//! "Journal (jbd2)"); the section is named where it is read.
//! - read: all block sizes, block maps and extents, inline data, hash trees (one block after the
//!   other), attributes in inodes, blocks and inodes of their own, access lists, big allocation
//!   units, meta groups, journals of all versions, fast commits;
//! - named and refused: compression, a journal on another device, content and names that the
//!   guest encrypted;
//! - checksums are verified for superblock, group descriptors, inodes, extents, directories,
//!   attribute blocks and the journal; what fails is `Damaged` and not shown.
//!
//! Files that were unlinked while open, and truncations that a crash interrupted, need nothing
//! here: no name leads to the former, and content ends at the inode's size for the latter.
//! Only [`Stat::allocated`](super::Stat::allocated) still counts what the truncation would free.
//! A fast commit does not hold the times and link counts of the directories that it changes:
//! those stay as they were.

mod acl;
mod content;
mod directory;
mod extents;
mod fast;
mod indirect;
mod inode;
mod journal;
mod run;
mod store;
mod superblock;
mod xattr;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use fast::Recent;
use inode::Inode;
use store::{ROOT, Store};
use superblock::Superblock;

use super::{
    Blocks, Cached, Cursor, Facts, Fault, FaultKind, FileSystem, FileType, NodeId, OpenOptions,
    Page, Result, Stat, State, Stream, Xattr,
};
use super::{crc, fields};

/// Memory for what was read lately, while the journal is replayed and afterwards.
const CACHE: usize = 16 << 20;

/// An open ext file system; nodes are its inodes.
#[derive(Debug)]
struct Ext {
    store: Store,
    facts: Facts,
}

/// Opens an ext file system and replays its journal in memory.
///
/// # Errors
/// `Damaged` and `Unsupported`, by name, for what is not read; `Stale` where the journal cannot
/// be replayed and that was not accepted.
pub(super) fn open(volume: Arc<dyn Blocks>, options: &OpenOptions) -> Result<Box<dyn FileSystem>> {
    let base: Arc<dyn Blocks> = Arc::new(Cached::new(Arc::clone(&volume), CACHE));
    let mut store = Store {
        sb: Superblock::read(&base)?,
        blocks: base,
        recent: Recent::default(),
    };
    let replayed = journal::replay(&volume, &store, options)?;
    if matches!(replayed.state, State::Replayed { .. }) {
        store.blocks = Arc::new(Cached::new(replayed.blocks, CACHE));
        store.sb = Superblock::read(&store.blocks)?;
        store.recent = replayed.recent;
    }
    let sb = &store.sb;
    let facts = Facts {
        kind: sb.kind().to_owned(),
        label: sb.label(),
        uuid: Some(uuid::Uuid::from_bytes(sb.uuid).to_string()),
        size: sb.blocks.saturating_mul(sb.block_size as u64),
        block_size: u32::try_from(sb.block_size).unwrap_or(u32::MAX),
        state: replayed.state,
    };
    let ext = Ext { store, facts };
    ext.of_type(ext.root(), FileType::Directory)?;
    Ok(Box::new(ext))
}

impl Ext {
    fn inode(&self, node: NodeId) -> Result<Inode> {
        let number = u32::try_from(node.0).unwrap_or(u32::MAX);
        self.store.inode(number)
    }

    fn of_type(&self, node: NodeId, want: FileType) -> Result<Inode> {
        let inode = self.inode(node)?;
        let found = inode.file_type();
        if found == want {
            return Ok(inode);
        }
        Err(Fault::new(
            FaultKind::WrongType,
            format!("inode {} is {found:?}, not {want:?}", node.0),
        ))
    }

    fn file(&self, node: NodeId, stream: Option<&[u8]>) -> Result<Inode> {
        match stream {
            None => self.of_type(node, FileType::File),
            Some(_) => Err(Fault::new(FaultKind::NotFound, "ext has no named streams")),
        }
    }
}

impl FileSystem for Ext {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId(ROOT.into())
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page> {
        let dir = self.of_type(dir, FileType::Directory)?;
        directory::list(&self.store, &dir, from, most)
    }

    fn stat(&self, node: NodeId) -> Result<Stat> {
        Ok(self.inode(node)?.stat())
    }

    fn read(&self, node: NodeId, stream: Option<&[u8]>, at: u64, buf: &mut [u8]) -> Result<usize> {
        content::read(&self.store, &self.file(node, stream)?, at, buf)
    }

    fn data(&self, node: NodeId, stream: Option<&[u8]>, from: u64) -> Result<Option<Range<u64>>> {
        content::data(&self.store, &self.file(node, stream)?, from)
    }

    fn link(&self, node: NodeId) -> Result<Vec<u8>> {
        let link = self.of_type(node, FileType::Symlink)?;
        content::link(&self.store, &link)
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>> {
        xattr::all(&self.store, &self.inode(node)?)
    }

    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        self.inode(node).map(|_| Vec::new())
    }
}
