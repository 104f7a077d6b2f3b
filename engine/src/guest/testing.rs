//! A file system in memory, for tests of what stands above the readers.

pub(in crate::guest) mod fixture;
pub(in crate::guest) mod look;
pub(in crate::guest) mod tree;
pub(in crate::guest) mod view;

use std::ops::Range;

use super::*;

/// A node of it.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    File(Vec<u8>),
    Dir(Vec<(Vec<u8>, u64)>),
    Link(Vec<u8>),
}

/// Nodes by number; 0 is the root.
#[derive(Debug)]
pub(crate) struct Tree {
    facts: Facts,
    items: Vec<Item>,
}

impl Tree {
    pub(crate) fn new(items: Vec<Item>) -> Self {
        let facts = Facts {
            kind: "tree".to_owned(),
            label: None,
            uuid: None,
            size: 0,
            block_size: 1,
            state: State::Clean,
        };
        Self { facts, items }
    }

    fn item(&self, node: NodeId) -> Result<&Item> {
        let found = usize::try_from(node.0).ok().and_then(|n| self.items.get(n));
        found.ok_or_else(|| Fault::new(FaultKind::NotFound, "no such node"))
    }

    fn type_of(item: &Item) -> FileType {
        match item {
            Item::File(_) => FileType::File,
            Item::Dir(_) => FileType::Directory,
            Item::Link(_) => FileType::Symlink,
        }
    }
}

fn wrong() -> Fault {
    Fault::new(FaultKind::WrongType, "wrong type")
}

impl FileSystem for Tree {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId(0)
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page> {
        let Item::Dir(names) = self.item(dir)? else {
            return Err(wrong());
        };
        let start = usize::try_from(from.0).unwrap();
        let part = names.iter().skip(start).take(most);
        let entries: Vec<Entry> = part
            .map(|(name, node)| Entry {
                name: name.clone(),
                node: NodeId(*node),
                file_type: None,
            })
            .collect();
        let end = start + entries.len();
        let next = (end < names.len()).then_some(Cursor(end as u64));
        Ok(Page { entries, next })
    }

    fn stat(&self, node: NodeId) -> Result<Stat> {
        let item = self.item(node)?;
        let size = match item {
            Item::File(bytes) | Item::Link(bytes) => bytes.len(),
            Item::Dir(names) => names.len(),
        };
        Ok(Stat::new(Self::type_of(item), size as u64))
    }

    fn read(&self, node: NodeId, stream: Option<&[u8]>, at: u64, buf: &mut [u8]) -> Result<usize> {
        let (Item::File(bytes), None) = (self.item(node)?, stream) else {
            return Err(wrong());
        };
        let from = bytes.get(usize::try_from(at).unwrap()..).unwrap_or(&[]);
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn data(&self, node: NodeId, _: Option<&[u8]>, from: u64) -> Result<Option<Range<u64>>> {
        let size = self.stat(node)?.size;
        Ok((from < size).then_some(from..size))
    }

    fn link(&self, node: NodeId) -> Result<Vec<u8>> {
        match self.item(node)? {
            Item::Link(target) => Ok(target.clone()),
            _ => Err(wrong()),
        }
    }

    fn xattrs(&self, _: NodeId) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn streams(&self, _: NodeId) -> Result<Vec<Stream>> {
        Ok(Vec::new())
    }
}
