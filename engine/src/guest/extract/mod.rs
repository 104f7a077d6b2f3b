//! Files of a guest into a directory of the host.
//!
//! The guest is hostile and so are its names: everything is made beneath the destination, no link
//! there is ever followed, nothing is written over unasked, and what is half done when it fails is
//! taken away again. What could not be done is told, item by item.

mod attributes;
mod content;
mod dest;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType as NodeType, Mode, OFlags};
use rustix::io::Errno;

use super::glob::{self, Match};
use super::walk::{Item, Step, Walk};
use super::{Fault, FileSystem, FileType, NodeId, Stream};
use crate::{Error, ErrorKind, Result};
use attributes::Keep;
use dest::Dest;

pub use report::{Note, NoteKind, Report};

/// Files with several names that are remembered; beyond, each name becomes a file of its own.
const MAX_LINKED: usize = 1 << 20;

/// How files are extracted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Replace files that are there. A directory is never replaced by something else.
    pub overwrite: bool,
    /// Keep owners, set-id bits and all extended attributes: needs root. Not set: modes without
    /// set-id bits, and attributes in `user.`.
    pub owners: bool,
    /// Make device nodes, sockets and pipes instead of skipping them: needs root.
    pub special: bool,
}

/// What the caller hears of while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// So much is done.
    Progress(&'a Report),
    /// Something could not be done, or not wholly.
    Note(&'a Note),
}

/// Hears events; may end it all.
pub type Watch<'w> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'w;

/// Extracts what these patterns name (see [`glob`]) into the directory `into`, each under its
/// whole path: `/var/www/index.php` becomes `into/var/www/index.php`. `into` is made where it is
/// missing.
///
/// What cannot be extracted is in the report, and the rest goes on.
///
/// # Errors
/// Where `into` cannot be opened, where its storage is full, and `WrongState` where the caller
/// ended it.
pub fn extract(
    fs: &dyn FileSystem,
    patterns: &[Vec<u8>],
    into: &Path,
    options: &Options,
    watch: &mut Watch<'_>,
) -> Result<Report> {
    let dest = Dest::open(into).map_err(|e| Error::io(into.display().to_string(), e))?;
    let mut work = Work {
        fs,
        dest,
        options,
        watch,
        made: HashMap::new(),
        buf: vec![0; content::STEP],
        report: Report {
            warning: fs.facts().state.warning().map(str::to_owned),
            ..Report::default()
        },
    };
    work.all(patterns)?;
    Ok(work.report)
}

/// Why one item, or all of it, ends.
#[derive(Debug)]
enum Trouble {
    /// This item only.
    Item(String),
    /// Everything.
    Stop(Error),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Item(fault.to_string())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Stop(Error::io("the destination", error))
            }
            io::ErrorKind::AlreadyExists => {
                Self::Item("it is there already, and is not replaced unasked".to_owned())
            }
            _ => Self::Item(error.to_string()),
        }
    }
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

struct Work<'a, 'w> {
    fs: &'a dyn FileSystem,
    dest: Dest,
    options: &'a Options,
    watch: &'a mut Watch<'w>,
    /// Files with several names: where the first one was made.
    made: HashMap<NodeId, Vec<u8>>,
    buf: Vec<u8>,
    report: Report,
}

impl Work<'_, '_> {
    fn all(&mut self, patterns: &[Vec<u8>]) -> Result<()> {
        let mut matches: Vec<Match> = Vec::new();
        for pattern in patterns {
            match glob::expand(self.fs, pattern) {
                Ok(found) => matches.extend(found),
                Err(fault) => self.note(pattern, NoteKind::Failed, fault.to_string())?,
            }
        }
        for found in outermost(matches) {
            if let Err(trouble) = self.parents(&found.path) {
                self.trouble(&found.path, trouble)?;
                continue;
            }
            self.tree(found)?;
        }
        self.tell(None)
    }

    /// Makes the directories above a path.
    fn parents(&mut self, path: &[u8]) -> Result<(), Trouble> {
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = path.get(..at).unwrap_or_default();
            self.directory(above, Mode::from_raw_mode(0o755))?;
        }
        Ok(())
    }

    fn tree(&mut self, found: Match) -> Result<()> {
        // Whether each open directory was made here, and its attributes are ours to set.
        let mut ours: Vec<bool> = Vec::new();
        let mut refused: Option<Vec<u8>> = None;
        for step in Walk::new(self.fs, found.path, found.node, true) {
            let path = match &step {
                Step::Enter(item) | Step::Leave(item) | Step::Node(item) => &item.path,
                Step::Fault { path, .. } => path,
            };
            // Beneath a directory that could not be made.
            if let Some(top) = &refused {
                if let Step::Leave(item) = &step
                    && item.path == *top
                {
                    refused = None;
                }
                continue;
            }
            let path = path.clone();
            let done = match step {
                Step::Enter(item) if item.path.is_empty() => {
                    ours.push(false);
                    Ok(())
                }
                Step::Enter(item) => match self.directory(&item.path, Mode::RWXU) {
                    Ok(new) => {
                        ours.push(new || self.options.overwrite);
                        self.report.directories += 1;
                        Ok(())
                    }
                    Err(trouble) => {
                        refused = Some(item.path);
                        Err(trouble)
                    }
                },
                Step::Leave(item) => match ours.pop() {
                    Some(true) => self.leave(&item),
                    _ => Ok(()),
                },
                Step::Node(item) => self.node(&item),
                Step::Fault { fault, .. } => Err(fault.into()),
            };
            match done {
                Ok(()) => self.tell(None)?,
                Err(trouble) => self.trouble(&path, trouble)?,
            }
        }
        Ok(())
    }

    /// Makes a directory; whether it is new.
    fn directory(&mut self, path: &[u8], mode: Mode) -> Result<bool, Trouble> {
        let (dir, name) = self.dest.parent(path)?;
        match rustix::fs::mkdirat(&*dir, name, mode) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => {
                // A link to a directory is none.
                self.dest.dir(path).map_err(|e| {
                    Trouble::Item(format!("something is there that is no directory: {e}"))
                })?;
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn leave(&mut self, item: &Item) -> Result<(), Trouble> {
        let dir = self.dest.dir(&item.path)?;
        self.dest.forget();
        let lost = Keep::new(self.fs, self.options, item).on(dir.as_fd());
        self.lost(&item.path, lost)
    }

    fn node(&mut self, item: &Item) -> Result<(), Trouble> {
        match item.stat.file_type {
            FileType::File => self.file(item),
            FileType::Symlink => self.symlink(item),
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                self.special(item)
            }
            FileType::Directory | FileType::Other => Err(Trouble::Item(
                "it is something that cannot be made here".to_owned(),
            )),
        }
    }

    fn file(&mut self, item: &Item) -> Result<(), Trouble> {
        let several = item.stat.links.is_some_and(|links| links > 1);
        if let Some(first) = self.made.get(&item.node).filter(|_| several).cloned() {
            let (from, old) = self.dest.parent(&first)?;
            let made = self.place(&item.path, |dir, name| {
                rustix::fs::linkat(&*from, old, dir, name, AtFlags::empty())
            })?;
            self.report.hard_links += 1;
            return Ok(made.keep()?);
        }
        let mut fd = None;
        let made = self.place(&item.path, |dir, name| {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fd = Some(rustix::fs::openat(
                dir,
                name,
                flags,
                Mode::RUSR | Mode::WUSR,
            )?);
            Ok(())
        })?;
        let fd: OwnedFd = fd.ok_or_else(|| Trouble::Item("it could not be opened".to_owned()))?;
        let file = std::fs::File::from(fd);
        content::copy(self.fs, item, &file, &mut self.buf, &mut |bytes| {
            self.report.bytes += bytes;
            going((self.watch)(Event::Progress(&self.report)))
        })?;
        let lost = Keep::new(self.fs, self.options, item).on(file.as_fd());
        made.keep()?;
        self.report.files += 1;
        if several && self.made.len() < MAX_LINKED {
            self.made.insert(item.node, item.path.clone());
        }
        self.lost(&item.path, lost)?;
        let lost = match self.fs.streams(item.node) {
            Ok(streams) => streams.iter().map(stream).collect(),
            Err(fault) => vec![format!("its streams could not be listed: {fault}")],
        };
        self.lost(&item.path, lost)
    }

    fn symlink(&mut self, item: &Item) -> Result<(), Trouble> {
        let target = self.fs.link(item.node)?;
        let made = self.place(&item.path, |dir, name| {
            rustix::fs::symlinkat(target.as_slice(), dir, name)
        })?;
        let lost = Keep::new(self.fs, self.options, item).on_name(made.dir(), made.name());
        made.keep()?;
        self.report.symlinks += 1;
        self.lost(&item.path, lost)
    }

    fn special(&mut self, item: &Item) -> Result<(), Trouble> {
        let kind = match item.stat.file_type {
            FileType::CharDevice => NodeType::CharacterDevice,
            FileType::BlockDevice => NodeType::BlockDevice,
            FileType::Fifo => NodeType::Fifo,
            _ => NodeType::Socket,
        };
        if !self.options.special {
            self.report.special_skipped += 1;
            let what = "a device node, socket or pipe: not made unasked".to_owned();
            return self
                .note(&item.path, NoteKind::Skipped, what)
                .map_err(Trouble::Stop);
        }
        let (major, minor) = item.stat.device.unwrap_or_default();
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::RUSR | Mode::WUSR;
        let made = self.place(&item.path, |dir, name| {
            rustix::fs::mknodat(dir, name, kind, mode, device)
        })?;
        let lost = Keep::new(self.fs, self.options, item).on_name(made.dir(), made.name());
        made.keep()?;
        self.report.special += 1;
        self.lost(&item.path, lost)
    }

    /// Makes something new under a path: under its name, or, where it may replace what is there,
    /// under a name that it is renamed from.
    fn place(
        &mut self,
        path: &[u8],
        make: impl FnMut(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> Result<dest::Made, Trouble> {
        let overwrite = self.options.overwrite;
        Ok(self.dest.make(path, overwrite, make)?)
    }

    fn lost(&mut self, path: &[u8], lost: Vec<String>) -> Result<(), Trouble> {
        for what in lost {
            self.note(path, NoteKind::Incomplete, what)
                .map_err(Trouble::Stop)?;
        }
        Ok(())
    }

    fn trouble(&mut self, path: &[u8], trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Item(what) => self.note(path, NoteKind::Failed, what),
            Trouble::Stop(error) => Err(error),
        }
    }

    fn note(&mut self, path: &[u8], kind: NoteKind, what: String) -> Result<()> {
        let note = Note::new(path, kind, what);
        self.report.count(&note);
        self.tell(Some(&note))
    }

    fn tell(&mut self, note: Option<&Note>) -> Result<()> {
        going((self.watch)(match note {
            Some(note) => Event::Note(note),
            None => Event::Progress(&self.report),
        }))
    }
}

fn going(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(
            ErrorKind::WrongState,
            "the extraction was ended before it was done",
        )),
    }
}

fn stream(stream: &Stream) -> String {
    format!(
        "the stream \"{}\" of {} bytes is not extracted",
        stream.name.escape_ascii(),
        stream.size
    )
}

/// Without those that lie beneath another one, or come twice.
fn outermost(matches: Vec<Match>) -> Vec<Match> {
    let all: HashSet<Vec<u8>> = matches.iter().map(|m| m.path.clone()).collect();
    let beneath = |path: &[u8]| {
        let whole = !path.is_empty() && all.contains(b"".as_slice());
        let mut slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        whole || slashes.any(|(at, _)| path.get(..at).is_some_and(|above| all.contains(above)))
    };
    let mut seen = HashSet::new();
    let kept = matches.into_iter().filter(|m| !beneath(&m.path));
    kept.filter(|m| seen.insert(m.path.clone())).collect()
}
