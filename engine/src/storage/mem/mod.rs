//! Storage in memory: for tests, and the ground of crash simulation.
//!
//! Every change goes through one [`Op`] that is logged and applied, so a directory is always the
//! replay of its log ([`MemDirectory::replay`]). Failures, a space limit and holds can be planned.

mod content;
mod disk;
mod faults;
mod file;
mod log;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::path::{components, parent_and_name};
use super::{Create, Directory, Entry, File, LockKind, Space};
use disk::Disk;
pub use faults::Fault;
use faults::{Failure, Faults};
pub use file::MemFile;
pub use log::{Inode, Op, OpKind};

/// What [`Directory::space`] tells where no limit is set.
const TOTAL: u64 = 1 << 50;

/// A directory tree in memory. Clones are the same tree.
#[derive(Debug, Clone, Default)]
pub struct MemDirectory {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    disk: Disk,
    log: Vec<Op>,
    faults: Faults,
    space_left: Option<u64>,
    held: HashSet<OpKind>,
    locks: HashMap<Inode, Vec<(u64, LockKind)>>,
    next_inode: u64,
    next_handle: u64,
}

impl MemDirectory {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree that these operations lead to; what cannot be applied is left out, as after a
    /// crash that lost what it built upon. The log of the new tree starts empty.
    pub fn replay<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let directory = Self::new();
        {
            let mut state = directory.shared.lock();
            for op in ops {
                if let Op::Create { inode, .. } = op {
                    state.next_inode = state.next_inode.max(inode.0 + 1);
                }
                // A refusal is the meaning of "left out".
                let _ = state.disk.apply(op);
            }
        }
        directory
    }

    /// All changes and syncs so far, in order.
    pub fn log(&self) -> Vec<Op> {
        self.shared.lock().log.clone()
    }

    /// Forgets the log.
    pub fn clear_log(&self) {
        self.shared.lock().log.clear();
    }

    /// The identity of the file that has this name now.
    pub fn inode(&self, path: &str) -> io::Result<Inode> {
        self.shared.lock().disk.inode(path)
    }

    /// Plans a failure.
    pub fn fail(&self, fault: Fault) {
        self.shared.lock().faults.waiting.push(fault);
    }

    /// Drops the failures that have not come yet, and the space limit.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.faults.waiting.clear();
        state.space_left = None;
    }

    /// Lets `allocate` or `punch` answer that the file system cannot.
    pub fn set_unsupported(&self, kind: OpKind) {
        self.shared.lock().faults.unsupported.insert(kind);
    }

    /// From now on only so many bytes can be stored newly (in units of 4 KiB): then ENOSPC.
    pub fn set_space_left(&self, bytes: u64) {
        self.shared.lock().space_left = Some(bytes);
    }

    /// Keeps asynchronous operations of this kind from starting until [`release`](Self::release).
    pub fn hold(&self, kind: OpKind) {
        self.shared.lock().held.insert(kind);
    }

    /// Lets held operations go.
    pub fn release(&self) {
        self.shared.lock().held.clear();
        self.shared.released.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn not_held(&self, kind: OpKind) {
        loop {
            let released = self.released.notified();
            if !self.lock().held.contains(&kind) {
                return;
            }
            released.await;
        }
    }
}

impl State {
    fn meet(&mut self, kind: OpKind, path: &str) -> io::Result<()> {
        self.faults
            .meet(kind, path)
            .map_or(Ok(()), |failure| Err(failure.error))
    }

    fn commit(&mut self, op: Op) -> io::Result<()> {
        self.disk.apply(&op)?;
        self.log.push(op);
        Ok(())
    }

    fn write(&mut self, inode: Inode, path: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (bytes, result) = match self.faults.meet(OpKind::Write, path) {
            None => (bytes, Ok(())),
            Some(Failure { error, torn }) => {
                (bytes.get(..torn.unwrap_or(0)).unwrap_or(bytes), Err(error))
            }
        };
        if !bytes.is_empty() {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let new = self.disk.content(inode)?.missing(at, len);
            if let Some(left) = &mut self.space_left {
                *left = left.checked_sub(new).ok_or(io::ErrorKind::StorageFull)?;
            }
            self.commit(Op::Write {
                inode,
                at,
                bytes: bytes.into(),
            })?;
        }
        result
    }
}

impl Directory for MemDirectory {
    fn open(&self, path: &str, how: Create) -> io::Result<Arc<dyn File>> {
        let mut state = self.shared.lock();
        let inode = if how == Create::New {
            state.meet(OpKind::Create, path)?;
            let inode = Inode(state.next_inode);
            state.commit(Op::Create {
                path: path.to_owned(),
                inode,
            })?;
            state.next_inode += 1;
            inode
        } else {
            state.meet(OpKind::Open, path)?;
            state.disk.inode(path)?
        };
        let handle = state.next_handle;
        state.next_handle += 1;
        let writable = how != Create::OpenRead;
        Ok(Arc::new(MemFile::new(
            Arc::clone(&self.shared),
            inode,
            handle,
            writable,
            path,
        )))
    }

    fn create_dirs(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        let mut made = String::new();
        for part in components(path)? {
            let parent = made.clone();
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(part);
            if !state.disk.is_dir(&made) {
                state.meet(OpKind::CreateDir, &made)?;
                state.commit(Op::CreateDir { path: made.clone() })?;
            }
            state.meet(OpKind::SyncDir, &parent)?;
            state.commit(Op::SyncDir { path: parent })?;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        parent_and_name(from)?;
        let mut state = self.shared.lock();
        state.meet(OpKind::Rename, to)?;
        state.commit(Op::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        parent_and_name(from)?;
        let mut state = self.shared.lock();
        state.meet(OpKind::Rename, to)?;
        state.commit(Op::Replace {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.meet(OpKind::RemoveFile, path)?;
        state.disk.inode(path)?;
        state.commit(Op::RemoveFile {
            path: path.to_owned(),
        })
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        parent_and_name(path)?;
        let mut state = self.shared.lock();
        state.meet(OpKind::RemoveDir, path)?;
        state.commit(Op::RemoveDir {
            path: path.to_owned(),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let mut state = self.shared.lock();
        state.meet(OpKind::List, path)?;
        state.disk.list(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        state.meet(OpKind::SyncDir, path)?;
        state.commit(Op::SyncDir {
            path: path.to_owned(),
        })
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.shared.lock();
        let stored = state.disk.stored();
        let available = state.space_left.unwrap_or(TOTAL - stored.min(TOTAL));
        Ok(Space {
            total: stored.saturating_add(available),
            available,
        })
    }
}

#[cfg(test)]
mod tests;
