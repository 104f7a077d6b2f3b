//! The disks that declared exports have open, so that none is opened twice where two descriptors
//! would exclude each other.
//!
//! A disk is known by what it is, not by its path: two paths may lead to one file, and one path to
//! another file than before. Nothing here keeps a disk open: what a removed export's clients still
//! hold is found as long as they hold it, and no longer.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Weak};

use crate::storage::File;

/// Which file or block device something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum DiskId {
    /// A block device, whatever node leads to it.
    Device(u64),
    /// A regular file: its file system and its number there.
    File(u64, u64),
}

impl DiskId {
    /// What a path leads to now; an error where that is neither a regular file nor a block device.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        if found.file_type().is_block_device() {
            Ok(Self::Device(found.rdev()))
        } else if found.is_file() {
            Ok(Self::File(found.dev(), found.ino()))
        } else {
            let text = "it is neither a regular file nor a block device";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

/// How a disk is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Raw, for reading.
    Read,
    /// Raw, for writing.
    Write,
    /// As a layer of an image, for reading; its descriptor is the image's own.
    Layer,
}

/// What declared exports, and clients of those that were removed, have open and locked.
#[derive(Debug, Default)]
pub(super) struct OpenDisks {
    disks: Vec<(DiskId, Mode, Weak<dyn File>)>,
}

impl OpenDisks {
    /// Remembers a locked file for as long as somebody else keeps it.
    pub(super) fn note(&mut self, id: DiskId, mode: Mode, file: &Arc<dyn File>) {
        self.disks.retain(|(.., file)| file.strong_count() > 0);
        self.disks.push((id, mode, Arc::downgrade(file)));
    }

    /// The raw disk, and whether it is open for writing; that one first where it is open twice.
    pub(super) fn raw(&self, id: DiskId) -> Option<(Arc<dyn File>, bool)> {
        let find = |wanted: Mode| {
            let mut of_it = self
                .disks
                .iter()
                .filter(|(i, m, _)| (*i, *m) == (id, wanted));
            of_it.find_map(|(.., file)| file.upgrade())
        };
        find(Mode::Write)
            .map(|file| (file, true))
            .or_else(|| find(Mode::Read).map(|file| (file, false)))
    }

    /// Whether we have it open in any way: then a lock on it may be our own.
    pub(super) fn ours(&self, id: DiskId) -> bool {
        let mut of_it = self.disks.iter().filter(|(i, ..)| *i == id);
        of_it.any(|(.., file)| file.strong_count() > 0)
    }
}
