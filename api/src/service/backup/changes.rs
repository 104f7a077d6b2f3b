//! Long lists of changed extents, which come by themselves before any data.

use sendense_engine::repository::BackupKind;
use sendense_formats::ChangeList;
use sendense_formats::changes::ParseLimits;

use super::running::{Stage, wrong_state};
use crate::auth::Caller;
use crate::service::{Fault, Result, Service, blocking};
use crate::types::{Backup, Code};

impl Service {
    /// `PUT /backup/{id}/disks/{n}/changes`: the seal then demands exactly these.
    pub async fn put_changes(
        &self,
        caller: &Caller,
        id: &str,
        disk_id: u32,
        json: impl AsRef<[u8]> + Send + 'static,
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
        let list = blocking(move || {
            ChangeList::parse_json(json.as_ref(), size, ParseLimits::default())
                .map_err(|e| Fault::invalid(e.to_string()).hint(e.hint()))
        })
        .await?;
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
