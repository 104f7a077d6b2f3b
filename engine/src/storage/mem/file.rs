//! One open file of a memory directory.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::log::{Inode, Op, OpKind};
use super::{Shared, State};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{Extent, File, LocalBoxFuture, LockKind, WriteRun};

/// A handle to a memory file. The file lives on while it is open, whatever becomes of its name.
pub struct MemFile {
    shared: Arc<Shared>,
    inode: Inode,
    handle: u64,
    writable: bool,
    /// The name at opening, for faults.
    path: String,
}

impl MemFile {
    pub(super) fn new(
        shared: Arc<Shared>,
        inode: Inode,
        handle: u64,
        writable: bool,
        path: &str,
    ) -> Self {
        Self {
            shared,
            inode,
            handle,
            writable,
            path: path.to_owned(),
        }
    }

    /// The file's identity in the log.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// The state, for a change of this kind.
    fn change(&self, kind: OpKind) -> io::Result<std::sync::MutexGuard<'_, State>> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        let mut state = self.shared.lock();
        state.meet(kind, &self.path)?;
        Ok(state)
    }

    fn write_parts(&self, buf: &IoBuf, runs: &[WriteRun]) -> io::Result<()> {
        for run in runs {
            let bytes = buf
                .as_ref()
                .get(run.part.clone())
                .ok_or(io::ErrorKind::InvalidInput)?;
            self.write_at_blocking(run.at, bytes)?;
        }
        Ok(())
    }
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFile")
            .field("path", &self.path)
            .field("inode", &self.inode)
            .finish_non_exhaustive()
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        // Closing drops the locks.
        let _ = self.unlock();
    }
}

impl File for MemFile {
    fn read_at<'a>(
        &'a self,
        _io: &'a Io,
        at: u64,
        mut buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        Box::pin(async move {
            self.shared.not_held(OpKind::Read).await;
            let result = self.read_at_blocking(at, buf.as_mut());
            (buf, result)
        })
    }

    fn write_runs<'a>(
        &'a self,
        _io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        Box::pin(async move {
            self.shared.not_held(OpKind::Write).await;
            let result = self.write_parts(&buf, &runs);
            (buf, result)
        })
    }

    fn sync<'a>(&'a self, _io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.shared.not_held(OpKind::Sync).await;
            self.sync_blocking()
        })
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.meet(OpKind::Read, &self.path)?;
        state.disk.content(self.inode)?.read(at, buf);
        Ok(())
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.shared.lock().write(self.inode, &self.path, at, buf)
    }

    fn sync_blocking(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.meet(OpKind::Sync, &self.path)?;
        state.commit(Op::Sync { inode: self.inode })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(OpKind::SetLen)?.commit(Op::SetLen {
            inode: self.inode,
            len,
        })
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, self.inode.0))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.lock().disk.content(self.inode)?.len())
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<bool> {
        let mut state = self.change(OpKind::Allocate)?;
        if state.faults.unsupported.contains(&OpKind::Allocate) {
            return Ok(false);
        }
        let behind = at
            .saturating_add(len)
            .saturating_sub(state.disk.content(self.inode)?.len());
        if state.space_left.is_some_and(|left| behind > left) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.commit(Op::Allocate {
            inode: self.inode,
            at,
            len,
        })?;
        Ok(true)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        let mut state = self.change(OpKind::Punch)?;
        if state.faults.unsupported.contains(&OpKind::Punch) {
            return Ok(false);
        }
        state.commit(Op::Punch {
            inode: self.inode,
            at,
            len,
        })?;
        Ok(true)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        Ok(self
            .shared
            .lock()
            .disk
            .content(self.inode)?
            .extents(at, len))
    }

    fn lock(&self, kind: LockKind) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.meet(OpKind::Lock, &self.path)?;
        let held = state.locks.entry(self.inode).or_default();
        let fits = |other: LockKind| other == LockKind::Reader && kind == LockKind::Reader;
        if held
            .iter()
            .any(|(handle, other)| *handle != self.handle && !fits(*other))
        {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("{} is open elsewhere", self.path),
            ));
        }
        held.retain(|(handle, _)| *handle != self.handle);
        held.push((self.handle, kind));
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        if let Some(held) = self.shared.lock().locks.get_mut(&self.inode) {
            held.retain(|(handle, _)| *handle != self.handle);
        }
        Ok(())
    }
}
