//! Sealed images that are open in this process: each once, shared by all who read it.
//!
//! QEMU's locks belong to an open file description, and a second one in our own process would
//! conflict with the first. So there is one per image; it is locked while anybody reads it, and
//! unlocked (explicitly, since a ring may know the descriptor longer) when the last one lets go.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Weak};

use super::store::lock;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{Create, Directory, Extent, File, LocalBoxFuture, LockKind, WriteRun};

/// The open images, by path.
#[derive(Debug, Default)]
pub(super) struct SharedFiles {
    open: Mutex<HashMap<String, Weak<SharedFile>>>,
}

impl SharedFiles {
    /// The image at this path; opened and locked by the first who asks, after `check` has passed.
    pub(super) fn get<E: From<io::Error>>(
        &self,
        dir: &dyn Directory,
        path: &str,
        check: impl FnOnce(&dyn File) -> Result<(), E>,
    ) -> Result<Arc<SharedFile>, E> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = dir.open(path, Create::OpenRead)?;
        file.lock(LockKind::Reader)?;
        let file = Arc::new(SharedFile { file });
        check(&*file.file)?;
        open.retain(|_, file| file.strong_count() > 0);
        open.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Whether somebody reads the image at this path.
    pub(super) fn in_use(&self, path: &str) -> bool {
        let open = lock(&self.open);
        open.get(path).is_some_and(|file| file.strong_count() > 0)
    }
}

/// An image that is read by any number of readers of this process.
#[derive(Debug)]
pub(super) struct SharedFile {
    file: Arc<dyn File>,
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // Nothing to do about a failure; the lock ends with the descriptor.
        let _ = self.file.unlock();
    }
}

impl File for SharedFile {
    fn read_at<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        self.file.read_at(io, at, buf)
    }

    fn write_runs<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        self.file.write_runs(io, buf, runs)
    }

    fn sync<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        self.file.sync(io)
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_at_blocking(at, buf)
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at_blocking(at, buf)
    }

    fn sync_blocking(&self) -> io::Result<()> {
        self.file.sync_blocking()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.identity()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<bool> {
        self.file.allocate(at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        self.file.punch(at, len)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        self.file.extents(at, len)
    }

    fn lock(&self, kind: LockKind) -> io::Result<()> {
        if kind == LockKind::Reader {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "a sealed image is open for reading here",
        ))
    }

    /// The lock belongs to all who share the file, and goes with the last of them.
    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}
