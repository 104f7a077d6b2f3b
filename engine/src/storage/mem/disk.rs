//! The state of a memory directory: a replay of operations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::content::Content;
use super::log::{Inode, Op};
use crate::storage::path::{components, parent_and_name};
use crate::storage::{Entry, EntryKind};

/// Names and contents.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    files: BTreeMap<String, Inode>,
    dirs: BTreeSet<String>,
    contents: HashMap<Inode, Content>,
}

impl Disk {
    /// Applies one operation; what it refuses changes nothing.
    pub(super) fn apply(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Create { path, inode } => {
                self.must_be_free(path)?;
                self.files.insert(path.clone(), *inode);
                self.contents.insert(*inode, Content::default());
            }
            Op::Write { inode, at, bytes } => self.content_mut(*inode)?.write(*at, bytes),
            Op::SetLen { inode, len } => self.content_mut(*inode)?.set_len(*len),
            Op::Allocate { inode, at, len } => {
                self.content_mut(*inode)?.extend(at.saturating_add(*len));
            }
            Op::Punch { inode, at, len } => {
                let content = self.content_mut(*inode)?;
                let end = at.saturating_add(*len).min(content.len());
                content.zero(*at, end.saturating_sub(*at));
            }
            Op::Sync { .. } => {}
            Op::Rename { from, to } => self.rename(from, to)?,
            Op::Replace { from, to } => {
                let inode = self.files.get(from).copied();
                let inode = inode.ok_or(io::ErrorKind::NotFound)?;
                if !self.files.contains_key(to) {
                    self.must_be_free(to)?;
                }
                self.files.remove(from);
                self.files.insert(to.clone(), inode);
            }
            Op::RemoveFile { path } => {
                self.files.remove(path).ok_or(io::ErrorKind::NotFound)?;
            }
            Op::CreateDir { path } => {
                self.must_be_free(path)?;
                self.dirs.insert(path.clone());
            }
            Op::RemoveDir { path } => {
                if !self.dirs.contains(path) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if !self.list(path)?.is_empty() {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.dirs.remove(path);
            }
            Op::SyncDir { path } => self.must_be_dir(path)?,
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        if let Some(inode) = self.files.get(from).copied() {
            self.must_be_free(to)?;
            self.files.remove(from);
            self.files.insert(to.to_owned(), inode);
            return Ok(());
        }
        if !self.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.must_be_free(to)?;
        let beneath = format!("{from}/");
        if to.starts_with(&beneath) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let moved = |path: &str| {
            (path == from).then(|| to.to_owned()).or_else(|| {
                path.strip_prefix(&beneath)
                    .map(|rest| format!("{to}/{rest}"))
            })
        };
        let files = std::mem::take(&mut self.files);
        self.files = files
            .into_iter()
            .map(|(p, i)| (moved(&p).unwrap_or(p), i))
            .collect();
        let dirs = std::mem::take(&mut self.dirs);
        self.dirs = dirs.into_iter().map(|p| moved(&p).unwrap_or(p)).collect();
        Ok(())
    }

    pub(super) fn inode(&self, path: &str) -> io::Result<Inode> {
        components(path)?;
        match self.files.get(path) {
            Some(inode) => Ok(*inode),
            None if path.is_empty() || self.dirs.contains(path) => {
                Err(io::ErrorKind::IsADirectory.into())
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn content(&self, inode: Inode) -> io::Result<&Content> {
        self.contents
            .get(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn content_mut(&mut self, inode: Inode) -> io::Result<&mut Content> {
        self.contents
            .get_mut(&inode)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.dirs.contains(path)
    }

    fn must_be_dir(&self, path: &str) -> io::Result<()> {
        components(path)?;
        if self.is_dir(path) {
            Ok(())
        } else if self.files.contains_key(path) {
            Err(io::ErrorKind::NotADirectory.into())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn must_be_free(&self, path: &str) -> io::Result<()> {
        let (parent, _) = parent_and_name(path)?;
        self.must_be_dir(parent)?;
        if self.files.contains_key(path) || self.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.must_be_dir(path)?;
        let entry = |full: &String, kind| {
            let name = if path.is_empty() {
                full.as_str()
            } else {
                full.strip_prefix(path)?.strip_prefix('/')?
            };
            (!name.contains('/')).then(|| Entry {
                name: name.to_owned(),
                kind,
            })
        };
        let files = self
            .files
            .keys()
            .filter_map(|full| entry(full, EntryKind::File));
        let dirs = self
            .dirs
            .iter()
            .filter_map(|full| entry(full, EntryKind::Directory));
        let mut entries: Vec<Entry> = files.chain(dirs).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn stored(&self) -> u64 {
        self.files
            .values()
            .filter_map(|inode| self.contents.get(inode))
            .map(Content::stored)
            .sum()
    }
}
