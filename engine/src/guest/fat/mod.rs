//! FAT12, FAT16 and FAT32, with long names.
//!
//! Written from Microsoft's "FAT: General Overview of On-Disk Format".
//! - a node is the place of its slot on the volume in bytes, 0 the root; the slot is read and
//!   checked again with each use;
//! - times are local times of a zone that the volume does not name: they are taken as UTC;
//! - names are found whatever their case, the exact one first;
//! - a chain that loops, leads outside or is shorter than its file is `Damaged`. One that is
//!   longer is not: systems reserve room in front of a write;
//! - FAT has no journal. The mark of a volume that was not unmounted, which every running guest
//!   leaves, promises nothing that could be replayed: its own driver shows the same files as this
//!   one, so the state is `Clean` with the mark too.

mod boot;
mod content;
mod directory;
mod fields;
mod name;
mod slot;
mod table;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use boot::{Boot, Kind, Root, SLOT};
use content::Reading;
use slot::{Node, Use};
use table::Store;

use super::{
    Blocks, Cached, Cursor, Entry, Facts, Fault, FaultKind, FileSystem, NodeId, Page, Result, Stat,
    State, Stream, Xattr,
};

/// Memory for what was read lately.
const CACHE: usize = 16 << 20;
/// The root directory, which has no slot.
const ROOT: NodeId = NodeId(0);

/// An open FAT file system.
#[derive(Debug)]
struct Fat {
    store: Store,
    reading: Reading,
    facts: Facts,
}

/// Opens a FAT file system.
///
/// # Errors
/// `Damaged` where the boot sector or the root directory contradicts the volume.
pub(super) fn open(volume: Arc<dyn Blocks>) -> Result<Box<dyn FileSystem>> {
    let boot = Boot::read(&volume)?;
    let store = Store {
        blocks: Arc::new(Cached::new(volume, CACHE)),
        boot,
    };
    let boot = &store.boot;
    let unnamed = |label: &String| !label.is_empty() && label != "NO NAME";
    let second = boot.label.map(|label| name::text(&label)).filter(unnamed);
    let serial = |n: u32| format!("{:04X}-{:04X}", n >> 16, n & 0xffff);
    let kind = match boot.kind {
        Kind::Fat12 => "fat12",
        Kind::Fat16 => "fat16",
        Kind::Fat32 => "fat32",
    };
    let facts = Facts {
        kind: kind.to_owned(),
        label: directory::label(&store)?.or(second),
        uuid: boot.serial.map(serial),
        size: boot.size,
        block_size: boot.cluster_size,
        state: State::Clean,
    };
    Ok(Box::new(Fat {
        store,
        reading: Reading::default(),
        facts,
    }))
}

impl Fat {
    /// Reads a node's slot. The root has none.
    fn node(&self, node: NodeId) -> Result<Node> {
        let none = || Fault::new(FaultKind::NotFound, format!("there is no node {}", node.0));
        let boot = &self.store.boot;
        let first = match boot.root {
            Root::Fixed { at, .. } => at,
            Root::Chain(_) => boot.data,
        };
        let end = boot.data + u64::from(boot.end - 2) * u64::from(boot.cluster_size);
        if node.0 < first || node.0 >= end || !node.0.is_multiple_of(SLOT) {
            return Err(none());
        }
        let slot = self.store.blocks.bytes(node.0, 32)?;
        match Use::of(&slot) {
            Use::Node => Ok(Node::of(&slot, boot.kind)),
            Use::End | Use::Skipped | Use::Long | Use::Label => Err(none()),
        }
    }

    fn directory(&self, dir: NodeId) -> Result<Root> {
        if dir == ROOT {
            return Ok(self.store.boot.root);
        }
        let found = self.node(dir)?;
        match found.directory {
            true => Ok(Root::Chain(found.first)),
            false => Err(wrong_type("a file is no directory")),
        }
    }

    fn file(&self, node: NodeId, stream: Option<&[u8]>) -> Result<Node> {
        if stream.is_some() {
            return Err(Fault::new(FaultKind::NotFound, "FAT has no named streams"));
        }
        if node == ROOT {
            return Err(wrong_type("the root is no file"));
        }
        let found = self.node(node)?;
        match found.directory {
            false => Ok(found),
            true => Err(wrong_type("a directory is no file")),
        }
    }
}

fn wrong_type(what: &'static str) -> Fault {
    Fault::new(FaultKind::WrongType, what)
}

impl FileSystem for Fat {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page> {
        let place = |fault: Fault| fault.at(format!("directory {}", dir.0));
        let found = self.directory(dir)?;
        directory::list(&self.store, found, from, most.max(1)).map_err(place)
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Entry> {
        // The format bounds directories: one page holds any of them.
        let page = self.list(dir, Cursor::default(), usize::MAX)?;
        let mut similar = None;
        for entry in page.entries {
            if entry.name == name {
                return Ok(entry);
            }
            if similar.is_none() && name::same(&entry.name, name) {
                similar = Some(entry);
            }
        }
        similar.ok_or_else(|| {
            let shown = String::from_utf8_lossy(name);
            Fault::new(FaultKind::NotFound, format!("there is no {shown:?} here"))
        })
    }

    fn stat(&self, node: NodeId) -> Result<Stat> {
        match node {
            ROOT => Ok(Stat::new(super::FileType::Directory, 0)),
            _ => self.node(node).map(|found| found.stat()),
        }
    }

    fn read(&self, node: NodeId, stream: Option<&[u8]>, at: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.file(node, stream)?;
        let read = self.reading.read(&self.store, &file, at, buf);
        read.map_err(|fault| fault.at(format!("file {}", node.0)))
    }

    fn data(&self, node: NodeId, stream: Option<&[u8]>, from: u64) -> Result<Option<Range<u64>>> {
        let size = u64::from(self.file(node, stream)?.size);
        Ok((from < size).then_some(from..size))
    }

    fn link(&self, node: NodeId) -> Result<Vec<u8>> {
        self.stat(node)?;
        Err(wrong_type("FAT has no links"))
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>> {
        self.stat(node).map(|_| Vec::new())
    }

    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        self.stat(node).map(|_| Vec::new())
    }
}
