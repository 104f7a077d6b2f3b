//! Restore points: found by id, by a beginning of it or as the latest; listed; drawn as chains.

use super::{Fault, Result, Service, VmRef, names};
use crate::auth::Caller;
use crate::store::{Cursor, ListFilter};
use crate::types::{
    Backup, BackupList, Chain, ChainPoint, Code, DiskChains, JobStatus, Time, VmChains,
};

/// Which machine is meant, in a query.
#[derive(Debug, Clone, Default)]
pub struct PointQuery {
    /// By name.
    pub vm_name: Option<String>,
    /// By id.
    pub vm_id: Option<String>,
}

impl PointQuery {
    fn vm(&self) -> Option<VmRef<'_>> {
        let vm = VmRef {
            name: self.vm_name.as_deref(),
            id: self.vm_id.as_deref(),
        };
        (vm.name.is_some() || vm.id.is_some()).then_some(vm)
    }
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// One machine.
    pub vm: PointQuery,
    /// One state, or `all`; sealed points where it is left out.
    pub status: Option<String>,
    /// One repository.
    pub repository: Option<String>,
    /// Where the last page ended.
    pub cursor: Option<String>,
    /// Rows per page.
    pub limit: u32,
}

impl Service {
    /// The whole id that a caller means: itself, a unique beginning of it, or `latest`.
    pub(super) async fn resolve_backup(
        &self,
        text: &str,
        vm: Option<&PointQuery>,
    ) -> Result<String> {
        names::check_name("the backup's id", text)?;
        if text == "latest" {
            let vm = match vm.and_then(PointQuery::vm) {
                Some(vm) => Some(self.resolve_vm(vm).await?.id),
                // With several machines, nobody means "whichever was last".
                None if self.store().machines_with_points().await? > 1 => {
                    return Err(Fault::new(
                        Code::Ambiguous,
                        "`latest` needs a machine: several have restore points",
                    )
                    .hint("name it with --vm (vm_name=), or give the id"));
                }
                None => None,
            };
            let latest = self.store().latest_backup(vm.as_deref()).await?;
            return latest
                .ok_or_else(|| Fault::new(Code::BackupNotFound, "there is no restore point yet"));
        }
        if self.store().backup(text).await?.is_some() {
            return Ok(text.to_owned());
        }
        let mut found = self.store().backup_ids_with(text).await?;
        match (found.pop(), found.is_empty()) {
            (Some(id), true) => Ok(id),
            (Some(last), false) => {
                found.push(last);
                Err(Fault::new(
                    Code::Ambiguous,
                    format!("{} backups begin with {text:?}", found.len()),
                )
                .member("ids", found))
            }
            (None, _) => Err(Fault::new(
                Code::BackupNotFound,
                format!("there is no backup {text:?}"),
            )),
        }
    }

    /// `GET /backup/{id}`.
    pub async fn show_backup(&self, caller: &Caller, id: &str, vm: &PointQuery) -> Result<Backup> {
        let id = self.resolve_backup(id, Some(vm)).await?;
        self.view_backup(caller, &id).await
    }

    /// `GET /backup/list`.
    pub async fn list_backups(&self, caller: &Caller, query: &ListQuery) -> Result<BackupList> {
        let vm_id = match query.vm.vm() {
            Some(vm) => Some(self.resolve_vm(vm).await?.id),
            None => None,
        };
        let status = match query.status.as_deref() {
            None => Some(JobStatus::Completed.as_str().to_owned()),
            Some("all") => None,
            Some(word) => {
                let status: JobStatus = word
                    .parse()
                    .map_err(|e: String| Fault::new(Code::BadRequest, e))?;
                Some(status.as_str().to_owned())
            }
        };
        let repository_id = match &query.repository {
            Some(name) => Some(self.repository(Some(name))?.repository.id().to_string()),
            None => None,
        };
        let after = query
            .cursor
            .as_deref()
            .map_or_else(|| Ok(Cursor::start()), Cursor::parse)?;
        let filter = ListFilter {
            vm_id,
            status,
            repository_id,
        };
        let page = self.store().backups(&filter, &after, query.limit).await?;
        let mut backups = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            backups.push(self.view_row(caller, row).await?);
        }
        Ok(BackupList {
            backups,
            next_cursor: page.next.map(|c| c.encode()),
        })
    }

    /// `GET /backup/chain`.
    pub async fn show_chains(&self, vm: &PointQuery) -> Result<VmChains> {
        let vm = vm
            .vm()
            .ok_or_else(|| Fault::new(Code::BadRequest, "neither vm_name nor vm_id is given"))?;
        let vm = self.resolve_vm(vm).await?;
        let rows = self.store().chains(&vm.id).await?;
        let sealed = self.store().sealed_disks(&vm.id).await?;
        let mut disks: Vec<DiskChains> = Vec::new();
        for d in self.store().vm_disks(&vm.id).await? {
            disks.push(DiskChains {
                disk_id: d.disk_id,
                full_backup_id: None,
                latest_backup_id: None,
                total_backups: 0,
                total_size_bytes: 0,
                chains: Vec::new(),
            });
        }
        for row in rows {
            let Some(disk) = disks.iter_mut().find(|d| d.disk_id == row.disk_id) else {
                continue;
            };
            let mut members: Vec<&str> = Vec::new();
            let mut backups = Vec::new();
            // Oldest first, so a parent is known before its children.
            for (_, point) in sealed
                .iter()
                .filter(|(r, p)| *r == row.repository_id && p.disk_id == row.disk_id)
            {
                let belongs = point.backup_id == row.full_backup_id
                    || point
                        .parent_backup_id
                        .as_deref()
                        .is_some_and(|p| members.contains(&p));
                if !belongs {
                    continue;
                }
                members.push(&point.backup_id);
                backups.push(ChainPoint {
                    backup_id: point.backup_id.clone(),
                    backup_type: super::backup::parse(&point.backup_type)?,
                    parent_backup_id: point.parent_backup_id.clone(),
                    sequence: point.sequence.map_or(0, crate::store::un),
                    size_bytes: point.size_bytes,
                    stored_bytes: point.stored_bytes,
                    change_id: point.change_id.clone(),
                    sealed_at: point.sealed_at.map(Time::from_micros),
                    verified_at: point.verified_at.map(Time::from_micros),
                });
            }
            let current = row.current != 0;
            // The first fields mirror the current chain; of several repositories, the newest one's.
            if current && disk.full_backup_id.is_none() {
                disk.full_backup_id = Some(row.full_backup_id.clone());
                disk.latest_backup_id = Some(row.latest_backup_id.clone());
                disk.total_backups = row.total_backups;
                disk.total_size_bytes = row.total_size_bytes;
            }
            disk.chains.push(Chain {
                chain_id: row.id,
                repository: self.repository_name(&row.repository_id),
                current,
                backups,
            });
        }
        Ok(VmChains {
            vm_id: vm.id,
            vm_name: vm.name,
            disks,
        })
    }
}
