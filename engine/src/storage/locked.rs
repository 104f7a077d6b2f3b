//! A file with a lock that goes with its last user.

use std::io;
use std::sync::Arc;

use super::{Extent, File, LocalBoxFuture, LockKind, WriteRun};
use crate::io::Io;
use crate::pool::IoBuf;

/// A locked file: the lock is dropped, explicitly, when the last clone of the `Arc` is. (A
/// descriptor in a ring outlives its close, and its lock with it.)
#[derive(Debug)]
pub struct LockedFile {
    inner: Arc<dyn File>,
}

impl LockedFile {
    /// Locks the file; `WouldBlock` where others forbid it.
    pub fn lock(inner: Arc<dyn File>, kind: LockKind) -> io::Result<Arc<dyn File>> {
        inner.lock(kind)?;
        Ok(Arc::new(Self { inner }))
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        if let Err(error) = self.inner.unlock() {
            tracing::warn!(%error, "a lock could not be dropped");
        }
    }
}

impl File for LockedFile {
    fn read_at<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        self.inner.read_at(io, at, buf)
    }

    fn write_runs<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        self.inner.write_runs(io, buf, runs)
    }

    fn sync<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        self.inner.sync(io)
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at_blocking(at, buf)
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        self.inner.write_at_blocking(at, buf)
    }

    fn sync_blocking(&self) -> io::Result<()> {
        self.inner.sync_blocking()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.inner.identity()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<bool> {
        self.inner.allocate(at, len)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        self.inner.punch(at, len)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        self.inner.extents(at, len)
    }

    fn lock(&self, kind: LockKind) -> io::Result<()> {
        self.inner.lock(kind)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }
}
