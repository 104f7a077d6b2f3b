//! XFS, version 5.
//!
//! Written from the published description of the format ("XFS Algorithms & Data Structures").
//! - read: all block, directory block and inode sizes, content by extents and by their trees,
//!   directories of all forms (block after block, not by hash), links, attributes of all forms,
//!   access lists, wide times and counters;
//! - named and refused: version 4, volumes that need a repair, metadata directories, zoned
//!   volumes, files on the realtime device;
//! - the log is not replayed: where it does not end in an unmount record, or not clearly, the view
//!   is stale;
//! - checksums, owners and places are verified in all that is read; what fails is `Damaged`.
//!
//! An access list is shown as `system.posix_acl_...` and not a second time under the name that
//! it has on the disk. Parent pointers are no attributes of the user's and are not shown.

mod acl;
mod content;
mod directory;
mod inode;
mod log;
mod map;
mod store;
mod superblock;
mod xattr;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use inode::Inode;
use store::Store;
use superblock::Superblock;

use super::{
    Blocks, Cached, Cursor, Facts, Fault, FaultKind, FileSystem, FileType, NodeId, OpenOptions,
    Page, Result, Stat, Stream, Xattr,
};
use super::{crc, fields};

/// Memory for what was read lately.
const CACHE: usize = 16 << 20;

/// An open XFS; nodes are its inodes.
#[derive(Debug)]
struct Xfs {
    store: Store,
    facts: Facts,
}

/// Opens an XFS.
///
/// # Errors
/// `Damaged` and `Unsupported`, by name, for what is not read; `Stale` where the log holds what
/// was not written back, and that was not accepted.
pub(super) fn open(volume: Arc<dyn Blocks>, options: &OpenOptions) -> Result<Box<dyn FileSystem>> {
    open_checked(volume, options, true)
}

/// Opens it; without `verify` what has a wrong checksum is looked at all the same: only for tests
/// of what stands behind the checksums.
fn open_checked(
    volume: Arc<dyn Blocks>,
    options: &OpenOptions,
    verify: bool,
) -> Result<Box<dyn FileSystem>> {
    let sb = Superblock::read(&volume, verify)?;
    let state = log::state(&*volume, &sb, options)?;
    let facts = Facts {
        kind: "xfs".to_owned(),
        label: sb.label(),
        uuid: Some(uuid::Uuid::from_bytes(sb.uuid).to_string()),
        size: sb.blocks.saturating_mul(sb.block_size as u64),
        block_size: u32::try_from(sb.block_size).unwrap_or(u32::MAX),
        state,
    };
    let store = Store {
        blocks: Arc::new(Cached::new(volume, CACHE)),
        sb,
        verify,
    };
    let xfs = Xfs { store, facts };
    xfs.of_type(xfs.root(), FileType::Directory)?;
    Ok(Box::new(xfs))
}

impl Xfs {
    fn of_type(&self, node: NodeId, want: FileType) -> Result<Inode> {
        let inode = self.store.inode(node.0)?;
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
            Some(_) => Err(Fault::new(FaultKind::NotFound, "XFS has no named streams")),
        }
    }
}

impl FileSystem for Xfs {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId(self.store.sb.root)
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page> {
        let dir = self.of_type(dir, FileType::Directory)?;
        directory::list(&self.store, &dir, from, most)
    }

    fn stat(&self, node: NodeId) -> Result<Stat> {
        Ok(self.store.inode(node.0)?.stat())
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
        let inode = self.store.inode(node.0)?;
        xattr::all(&self.store, &inode).map_err(|fault| fault.at(format!("inode {}", node.0)))
    }

    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        self.store.inode(node.0).map(|_| Vec::new())
    }
}
