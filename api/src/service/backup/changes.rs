//! Long lists of changed extents, which come by themselves before any data.

use std::io::Read;
use std::sync::Arc;

use sendense_engine::repository::BackupKind;
use sendense_formats::changes::ParseLimits;
use sendense_formats::{ChangeList, ErrorKind};
use tokio::sync::Semaphore;

use super::running::{Stage, wrong_state};
use crate::auth::Caller;
use crate::service::{Fault, Result, Service, blocking};
use crate::types::{Backup, Code};

impl Service {
    /// `PUT /backup/{id}/disks/{n}/changes`: the seal then demands exactly these.
    ///
    /// `json` is read on a thread that may block, and must fail where it was cut off: only a list
    /// that was read to its end takes the place of the one before. Refused as
    /// [`Code::TooLarge`] beyond `limits.changes_bytes` or 4 Mi extents.
    pub async fn put_changes(
        &self,
        caller: &Caller,
        id: &str,
        disk_id: u32,
        json: impl Read + Send + 'static,
    ) -> Result<Backup> {
        let id = self.resolve_backup(id, None).await?;
        let running = self
            .running_job(&id)
            .ok_or_else(|| wrong_state("it does not run: changes come before any data"))?;
        let size = {
            let state = running.state();
            let disk = state.disks.iter().find(|d| d.number.get() == disk_id);
            disk.map(|d| d.ingest.progress().size)
        };
        let no_disk = || Fault::new(Code::DiskNotFound, format!("{id} has no disk {disk_id}"));
        let size = size.ok_or_else(no_disk)?;
        let limits = ParseLimits {
            max_bytes: self.config().limits.changes_bytes,
            ..ParseLimits::default()
        };
        let list = self.inner.lists.read(json, size, limits).await?;
        {
            let mut state = running.state();
            if !matches!(state.stage, Stage::Open) {
                return Err(wrong_state("it is being ended or sealed"));
            }
            let disk = state.disks.iter_mut().find(|d| d.number.get() == disk_id);
            let disk = disk.ok_or_else(no_disk)?;
            let kind = disk.growing.as_ref().map(|g| g.decision().kind);
            if kind == Some(BackupKind::Full) {
                return Err(wrong_state(
                    "this disk is backed up in full: it takes no changes",
                ));
            }
            if disk.export.is_none() {
                return Err(wrong_state(
                    "the daemon reads this disk itself: changes come at the start",
                ));
            }
            let total = list.total();
            disk.ingest.set_changes(list)?;
            disk.total = total;
        }
        self.view_backup(caller, &id).await
    }
}

/// Lists that are read at once: each takes a thread and up to 64 MiB, twice that while it grows.
/// Others wait, their bodies unread, until their request has taken too long.
const AT_ONCE: usize = 8;

/// The change lists on their way in.
#[derive(Debug)]
pub(in crate::service) struct Lists {
    turns: Arc<Semaphore>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Lists {
    async fn read(
        &self,
        json: impl Read + Send + 'static,
        size: u64,
        limits: ParseLimits,
    ) -> Result<ChangeList> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Fault::internal("nobody reads change lists any more"))?;
        blocking(move || {
            // Held by the thread: whoever asked may be gone long before it.
            let _turn = turn;
            ChangeList::read_json(json, size, limits).map_err(refused)
        })
        .await
    }
}

fn refused(e: sendense_formats::Error) -> Fault {
    match e.kind {
        ErrorKind::TooLarge => Fault::new(Code::TooLarge, e.to_string()).hint(
            "name fewer and longer extents: neighbours may be put together, and to name more than \
             what changed only sends more",
        ),
        _ => Fault::invalid(e.to_string()).hint(e.hint()),
    }
}
