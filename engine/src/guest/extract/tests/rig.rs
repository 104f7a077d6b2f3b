//! A guest's tree that can be odd or broken, and the destination looked at.

use std::collections::HashMap;
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use crate::guest::extract::{Event, Options, Report, extract};
use crate::guest::testing::{Item, Tree};
use crate::guest::{Cursor, Facts, Fault, FileSystem, NodeId, Page, Result, Stat, Stream, Xattr};

/// A tree with facts, holes and attributes of its own.
#[derive(Debug)]
pub(super) struct Guest {
    tree: Tree,
    pub(super) facts: Facts,
    stats: HashMap<u64, Stat>,
    pub(super) data: HashMap<u64, Vec<Range<u64>>>,
    pub(super) xattrs: HashMap<u64, Vec<Xattr>>,
    pub(super) streams: HashMap<u64, Vec<Stream>>,
    /// Nodes whose attributes and streams cannot be read.
    pub(super) odd: Vec<u64>,
    /// Files whose content cannot be read beyond this.
    pub(super) broken: HashMap<u64, u64>,
}

impl Guest {
    pub(super) fn new(items: Vec<Item>) -> Self {
        let tree = Tree::new(items);
        Self {
            facts: tree.facts().clone(),
            tree,
            stats: HashMap::new(),
            data: HashMap::new(),
            xattrs: HashMap::new(),
            streams: HashMap::new(),
            odd: Vec::new(),
            broken: HashMap::new(),
        }
    }

    /// Changes the facts of a node.
    pub(super) fn with(mut self, node: u64, change: impl FnOnce(&mut Stat)) -> Self {
        let mut stat = self.stat(NodeId(node)).unwrap();
        change(&mut stat);
        self.stats.insert(node, stat);
        self
    }
}

impl FileSystem for Guest {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId(0)
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> Result<Page> {
        self.tree.list(dir, from, most)
    }

    fn stat(&self, node: NodeId) -> Result<Stat> {
        let known = self.stats.get(&node.0).cloned();
        known.map_or_else(|| self.tree.stat(node), Ok)
    }

    fn read(&self, node: NodeId, stream: Option<&[u8]>, at: u64, buf: &mut [u8]) -> Result<usize> {
        match self.broken.get(&node.0) {
            Some(end) if at >= *end => Err(Fault::damaged("the extent lies outside")),
            Some(end) => {
                let len = buf.len().min(usize::try_from(end - at).unwrap());
                self.tree.read(node, stream, at, &mut buf[..len])
            }
            None => self.tree.read(node, stream, at, buf),
        }
    }

    fn data(&self, node: NodeId, stream: Option<&[u8]>, from: u64) -> Result<Option<Range<u64>>> {
        match self.data.get(&node.0) {
            Some(ranges) => Ok(ranges.iter().find(|r| r.end > from).cloned()),
            None => self.tree.data(node, stream, from),
        }
    }

    fn link(&self, node: NodeId) -> Result<Vec<u8>> {
        self.tree.link(node)
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Xattr>> {
        if self.odd.contains(&node.0) {
            return Err(Fault::damaged("the attributes lie outside"));
        }
        Ok(self.xattrs.get(&node.0).cloned().unwrap_or_default())
    }

    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        if self.odd.contains(&node.0) {
            return Err(Fault::damaged("the streams lie outside"));
        }
        Ok(self.streams.get(&node.0).cloned().unwrap_or_default())
    }
}

pub(super) fn dir(names: &[(&[u8], u64)]) -> Item {
    Item::Dir(names.iter().map(|(n, i)| (n.to_vec(), *i)).collect())
}

pub(super) fn bytes(content: &[u8]) -> Item {
    Item::File(content.to_vec())
}

pub(super) fn run(guest: &Guest, what: &[&str], into: &Path, options: &Options) -> Report {
    let patterns: Vec<_> = what.iter().map(|p| p.as_bytes().to_vec()).collect();
    let mut watch = |_: Event<'_>| ControlFlow::Continue(());
    extract(guest, &patterns, into, options, &mut watch).unwrap()
}

/// Everything beneath a directory, in order.
pub(super) fn found(at: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut left = vec![at.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            all.push(entry.path().strip_prefix(at).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
        }
    }
    all.sort();
    all
}
