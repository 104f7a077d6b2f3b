//! Which paths of this host a request may name: `sources.allow` and `targets.allow`.
//!
//! Empty means none. A path is opened beneath the entry that covers it, without following a link
//! behind that entry and without leaving it; what the entries themselves are is the operator's
//! word. (Names such as `/dev/vg/lv` are links: allow and name `/dev/dm-N`, or the link itself as
//! an entry.)

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::storage::local::{LocalDirectory, open_beneath, open_path};
use crate::storage::{Create, Directory, File};
use crate::{Error, ErrorKind, Result};

/// Directories, and single files or devices, that may be named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<PathBuf>,
}

/// What a path is, in terms of the list.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// An entry itself.
    Entry(&'a Path),
    /// Beneath an entry.
    Beneath(&'a Path, String),
}

impl AllowList {
    /// From absolute paths without `.` and `..`.
    pub fn new(entries: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let entries: Vec<PathBuf> = entries.into_iter().collect();
        match entries.iter().find(|e| !is_plain(e)) {
            None => Ok(Self { entries }),
            Some(bad) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: an allowed path is absolute, without `.` and `..`",
                    bad.display()
                ),
            )),
        }
    }

    /// The entries.
    pub fn entries(&self) -> &[PathBuf] {
        &self.entries
    }

    /// Opens an existing file or block device.
    pub fn open(&self, path: &Path, how: Create) -> Result<Arc<dyn File>> {
        let opened = match self.place(path)? {
            Place::Entry(entry) => open_path(entry, how),
            Place::Beneath(entry, rest) => open_beneath(entry, &rest, how),
        };
        opened.map_err(|e| Error::io(path.display().to_string(), e))
    }

    /// The directory tree that a new file may be made in, and its path in there.
    pub fn directory(&self, path: &Path) -> Result<(Arc<dyn Directory>, String)> {
        match self.place(path)? {
            Place::Entry(entry) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{}: an allowed path itself is no name for a new file",
                    entry.display()
                ),
            )),
            Place::Beneath(entry, rest) => {
                let tree = LocalDirectory::open(entry);
                let tree = tree.map_err(|e| Error::io(entry.display().to_string(), e))?;
                Ok((tree, rest))
            }
        }
    }

    fn place(&self, path: &Path) -> Result<Place<'_>> {
        let denied = || {
            Error::new(
                ErrorKind::Invalid,
                format!("{}: is not beneath an allowed path", path.display()),
            )
        };
        if !is_plain(path) {
            return Err(denied());
        }
        // The longest entry: what it is decides.
        let covering = self.entries.iter().filter(|e| path.starts_with(e));
        let entry = covering
            .max_by_key(|e| e.components().count())
            .ok_or_else(denied)?;
        let rest = path.strip_prefix(entry).map_err(|_| denied())?;
        match rest.to_str() {
            Some("") => Ok(Place::Entry(entry)),
            Some(rest) => Ok(Place::Beneath(entry, rest.to_owned())),
            None => Err(denied()),
        }
    }
}

/// Absolute, and each component is a name.
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
        && !path
            .as_os_str()
            .as_encoded_bytes()
            .windows(3)
            .any(|w| w == b"/./")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_allows_nothing() {
        let e = AllowList::default().open(Path::new("/etc/passwd"), Create::OpenRead);
        assert!(
            e.unwrap_err()
                .to_string()
                .contains("is not beneath an allowed path")
        );
    }

    #[test]
    fn only_what_is_beneath_is_opened_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("disk"), b"1").unwrap();
        std::fs::write(dir.path().join("outside"), b"2").unwrap();
        std::os::unix::fs::symlink("../outside", inside.join("link")).unwrap();
        let list = AllowList::new([inside.clone()]).unwrap();
        let open = |p: PathBuf| list.open(&p, Create::OpenRead);
        open(inside.join("disk")).unwrap();
        for refused in ["link", "../outside", "./disk"] {
            assert!(open(inside.join(refused)).is_err(), "{refused}");
        }
        assert!(open(dir.path().join("outside")).is_err());
        assert!(open(dir.path().join("in2")).is_err());
        assert!(open(PathBuf::from("in/disk")).is_err());
        let (tree, name) = list.directory(&inside.join("new")).unwrap();
        assert_eq!(name, "new");
        tree.open(&name, Create::New).unwrap();
        assert!(list.directory(&inside).is_err());
    }

    #[test]
    fn a_single_file_may_be_an_entry() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::write(&disk, b"1").unwrap();
        let list = AllowList::new([disk.clone()]).unwrap();
        list.open(&disk, Create::OpenRead).unwrap();
        assert!(AllowList::new([PathBuf::from("relative")]).is_err());
        assert!(AllowList::new([PathBuf::from("/a/../b")]).is_err());
    }
}
