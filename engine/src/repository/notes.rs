//! Notes on a sealed restore point: what was found out about it later.

use std::io;

use super::backup_id::BackupId;
use super::ids::VmId;
use super::layout::{points_dir, state_path};
use super::state_log::{MAX_STATE_BYTES, StateEntry, StateLog};
use super::store::{Repository, lock};
use crate::storage::{Create, Directory};
use crate::{Error, Result};

impl Repository {
    /// What happened to a restore point since its seal.
    pub fn notes(&self, vm: VmId, id: &BackupId) -> Result<StateLog> {
        read(&*self.inner.dir, &state_path(vm, id))
    }

    /// Adds a note to a restore point; durable when this returns.
    pub fn add_note(&self, vm: VmId, id: &BackupId, note: &StateEntry) -> Result<()> {
        let book = self.inner.book(vm);
        let mut book = lock(&book);
        book.points(&self.inner)?.get(id)?;
        let dir = &*self.inner.dir;
        let path = state_path(vm, id);
        let line = read(dir, &path)?.encode_next(note)?;
        let io = |e| self.inner.io(&format!("adding to {path}"), e);
        match dir.open(&path, Create::OpenWrite) {
            Ok(file) => {
                let end = file.len().map_err(io)?;
                file.write_at_blocking(end, &line).map_err(io)?;
                file.sync_blocking().map_err(io)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                dir.write_small(&path, &line).map_err(io)?;
                dir.sync_dir(&points_dir(vm)).map_err(io)
            }
            Err(e) => Err(io(e)),
        }
    }
}

fn read(dir: &dyn Directory, path: &str) -> Result<StateLog> {
    match dir.read_small(path, MAX_STATE_BYTES) {
        Ok(bytes) => Ok(StateLog::decode(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(StateLog::default()),
        Err(e) => Err(Error::io(format!("reading {path}"), e)),
    }
}
