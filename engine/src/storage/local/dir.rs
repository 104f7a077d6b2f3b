//! A directory tree of this machine.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, fstatvfs, fsync, linkat, mkdirat,
    openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::file::LocalFile;
use super::{NEW_FILE, open_flags, walk};
use crate::storage::path::components;
use crate::storage::{Create, Directory, Entry, EntryKind, File, Space};

/// Owner and group of the daemon; the umask may take more away.
const NEW_DIRECTORY: Mode = Mode::from_raw_mode(0o750);

/// A directory tree beneath a root that is opened once: renaming or replacing the root's path
/// later does not move us elsewhere.
pub struct LocalDirectory {
    root: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl LocalDirectory {
    /// Opens an existing directory as the root. Links in this path are the caller's to trust.
    pub fn open(path: &Path) -> io::Result<Arc<dyn Directory>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        Ok(Arc::new(Self {
            root,
            path: path.to_owned(),
        }))
    }
}

impl fmt::Debug for LocalDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalDirectory").field(&self.path).finish()
    }
}

/// Creates a directory beneath `root` and its missing parents. `sync` makes the names in a
/// directory durable; what is there already may be there because an earlier call made it and then
/// failed to do that.
pub(super) fn make_dirs(
    root: &OwnedFd,
    path: &str,
    mut sync: impl FnMut(&OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    let mut made = String::new();
    for part in components(path)? {
        let parent = walk::directory(root, &made)?;
        if !made.is_empty() {
            made.push('/');
        }
        made.push_str(part);
        match mkdirat(&parent, part, NEW_DIRECTORY) {
            Ok(()) => sync(&parent)?,
            Err(Errno::EXIST) => {
                // What is there must be a directory.
                drop(walk::directory(root, &made)?);
                sync(&parent)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Creates a directory and its missing parents, as [`make_dirs`] does, at a path whose links are
/// the caller's to trust.
pub(super) fn make_path(
    path: &Path,
    mode: u32,
    mut sync: impl FnMut(&OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    for part in parts {
        // The root and the working directory are there.
        let Some(parent) = part.parent() else {
            continue;
        };
        let made = match mkdirat(CWD, part, Mode::from_raw_mode(mode)) {
            Ok(()) => true,
            Err(_) if part.is_dir() => false,
            Err(Errno::EXIST) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) => return Err(error.into()),
        };
        let here = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, here, flags, Mode::empty()) {
            Ok(here) if made => sync(&here)?,
            Ok(here) => match sync(&here) {
                // A file system that we cannot have made anything in.
                Err(e) if Errno::from_io_error(&e).is_some_and(cannot_sync) => {}
                synced => synced?,
            },
            // Who may not list it is not who makes directories there.
            Err(Errno::ACCESS | Errno::PERM) if !made => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a sync was refused because the file system takes no changes or has none to keep.
fn cannot_sync(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::ROFS | Errno::NOTSUP)
}

impl Directory for LocalDirectory {
    fn open(&self, path: &str, how: Create) -> io::Result<Arc<dyn File>> {
        let mode = if how == Create::New {
            NEW_FILE
        } else {
            Mode::empty()
        };
        let fd = walk::open(&self.root, path, open_flags(how), mode)?;
        Ok(Arc::new(LocalFile::new(
            fd,
            how != Create::OpenRead,
            false,
        )?))
    }

    fn create_dirs(&self, path: &str) -> io::Result<()> {
        make_dirs(&self.root, path, |parent| Ok(fsync(parent)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from) = walk::parent(&self.root, from)?;
        let (to_dir, to) = walk::parent(&self.root, to)?;
        match renameat_with(&from_dir, from, &to_dir, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // The file system cannot rename without replacing (some network ones): a second name
            // never replaces either. A crash between the two calls leaves both names.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                linkat(&from_dir, from, &to_dir, to, AtFlags::empty())?;
                Ok(unlinkat(&from_dir, from, AtFlags::empty())?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from) = walk::parent(&self.root, from)?;
        let (to_dir, to) = walk::parent(&self.root, to)?;
        Ok(renameat(&from_dir, from, &to_dir, to)?)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let (parent, name) = walk::parent(&self.root, path)?;
        Ok(unlinkat(&parent, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let (parent, name) = walk::parent(&self.root, path)?;
        Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let fd = walk::directory(&self.root, path)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems tell no types in directories.
                FileType::Unknown => {
                    match statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                told => told,
            };
            let kind = match kind {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                _ => EntryKind::Other,
            };
            entries.push(Entry {
                name: name.to_owned(),
                kind,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        Ok(fsync(walk::directory(&self.root, path)?)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fstatvfs(&self.root)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}
