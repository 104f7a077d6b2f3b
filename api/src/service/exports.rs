//! Restore exports: a disk of a restore point over NBD, read-only, until nobody wants it any more.
//!
//! One lives as long as a client is connected, and its time beyond that. It holds the point's
//! images open, so the point cannot be deleted beneath it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sendense_engine::export::RestoreSource;
use sendense_engine::plane::Source;
use sendense_engine::repository::{BackupId, DiskNumber, Repository, VmId};
use sendense_nbd::registry::{Entry, Removal};

use super::{Fault, Result, Service, lock};
use crate::auth::{self, Caller};
use crate::store::AuditRow;
use crate::types::{
    Code, Export, ExportList, RestoreExport, RestoreExportList, RestoreExportRequest, Time,
};

const DEFAULT_TTL: u64 = 3600;
const MAX_TTL: u64 = 7 * 24 * 3600;
const MAX_EXPORTS: usize = 1024;
const MAX_CONNECTIONS: usize = 64;

/// Characters of the secret in its name: 65 bits.
const SECRET: usize = 13;

/// The exports that are open now, by id.
#[derive(Debug, Default)]
pub(super) struct RestoreExports {
    open: Mutex<BTreeMap<String, Open>>,
}

#[derive(Debug, Clone)]
struct Open {
    backup_id: String,
    disk_id: u32,
    size: u64,
    name: String,
    ttl: Duration,
    expires_at: Time,
    created_at: Time,
}

/// A disk of a sealed point: where it is.
#[derive(Debug, Clone)]
pub(super) struct SealedDisk {
    pub(super) repository: Repository,
    pub(super) vm: VmId,
    pub(super) vm_name: String,
    pub(super) backup: BackupId,
    pub(super) disk: DiskNumber,
}

impl Service {
    /// The disk of a sealed point that a caller means.
    pub(super) async fn sealed_disk(&self, backup_id: &str, disk_id: u32) -> Result<SealedDisk> {
        let id = self.resolve_backup(backup_id, None).await?;
        let row = self.store().backup(&id).await?;
        let row =
            row.ok_or_else(|| Fault::new(Code::BackupNotFound, format!("there is no {id}")))?;
        if row.status != "completed" {
            return Err(Fault::new(
                Code::WrongState,
                format!("{id} is {}: it is no restore point", row.status),
            ));
        }
        let disks = self.store().backup_disks(&id).await?;
        if disks.iter().all(|d| d.disk_id != disk_id) {
            return Err(Fault::new(
                Code::DiskNotFound,
                format!("{id} has no disk {disk_id}"),
            ));
        }
        Ok(SealedDisk {
            repository: self
                .repository(Some(&row.repository_id))?
                .repository
                .clone(),
            vm: VmId::parse(&row.vm_id)?,
            vm_name: row.vm_name,
            backup: BackupId::parse(id)?,
            disk: DiskNumber::new(disk_id)?,
        })
    }

    /// `POST /restore/export`.
    pub async fn restore_export(
        &self,
        caller: &Caller,
        request: RestoreExportRequest,
    ) -> Result<RestoreExport> {
        let ttl = request.ttl_seconds.unwrap_or(DEFAULT_TTL);
        if !(1..=MAX_TTL).contains(&ttl) {
            return Err(Fault::invalid(format!(
                "ttl_seconds is {ttl}; it must be 1 to {MAX_TTL}"
            )));
        }
        if lock(&self.inner.exports.open).len() >= MAX_EXPORTS {
            return Err(Fault::new(
                Code::TooMany,
                format!("{MAX_EXPORTS} restore exports are open, which is the limit"),
            ));
        }
        let found = self
            .sealed_disk(&request.backup_id, request.disk_id)
            .await?;
        let chain = self
            .chain(&found.repository, found.vm, &found.backup, found.disk)
            .await?;
        let size = chain.size();
        let id = format!("export-{}", auth::random_base32(10)?);
        let at = found.backup.as_str().rsplit('-').find(|p| p.len() == 14);
        let name = format!(
            "restore-{}-disk{}-{}",
            at.unwrap_or("point"),
            found.disk,
            auth::random_base32(SECRET)?
        );
        let source: Arc<dyn Source> = Arc::new(
            RestoreSource::new(chain).described(format!("{} disk {}", found.backup, found.disk)),
        );
        let entry = Entry {
            listed: false,
            max_connections: Some(MAX_CONNECTIONS),
            ..Entry::new(source)
        };
        self.plane()
            .registry()
            .declare(&name, entry)
            .map_err(|e| Fault::internal(format!("the export could not be opened: {e}")))?;
        let now = Time::now();
        let ttl = Duration::from_secs(ttl);
        let open = Open {
            backup_id: found.backup.as_str().to_owned(),
            disk_id: request.disk_id,
            size,
            name,
            ttl,
            expires_at: now.plus(ttl),
            created_at: now,
        };
        let view = self.export_view(&id, &open, 0);
        lock(&self.inner.exports.open).insert(id.clone(), open);
        let mut tx = self.store().begin_write().await?;
        tx.audit(&AuditRow {
            at: now.micros(),
            actor: caller.name.clone(),
            action: "restore.export".to_owned(),
            object: found.backup.as_str().to_owned(),
            detail: format!("disk {}, {id}", found.disk),
        })
        .await?;
        tx.commit().await?;
        Ok(view)
    }

    /// `GET /restore/exports`.
    pub fn restore_exports(&self) -> RestoreExportList {
        let connections = self.connections();
        let mut open: Vec<(String, Open)> = lock(&self.inner.exports.open)
            .iter()
            .map(|(id, o)| (id.clone(), o.clone()))
            .collect();
        open.sort_by_key(|(_, o)| o.created_at);
        let exports = open
            .iter()
            .map(|(id, o)| self.export_view(id, o, count(&connections, &o.name)))
            .collect();
        RestoreExportList { exports }
    }

    /// `DELETE /restore/export/{id}`: clients are cut.
    pub fn end_restore_export(&self, id: &str) -> Result<RestoreExport> {
        let open = lock(&self.inner.exports.open).remove(id);
        let open = open.ok_or_else(|| {
            Fault::new(Code::NotFound, format!("there is no restore export {id:?}"))
        })?;
        let connections = self.connections();
        let view = self.export_view(id, &open, count(&connections, &open.name));
        // It may be gone by itself at a shutdown.
        let _ = self.plane().registry().remove(&open.name, Removal::Hard);
        Ok(view)
    }

    /// Ends the exports whose time is over; one with clients starts its time anew.
    pub fn sweep_exports(&self) {
        let connections = self.connections();
        let now = Time::now();
        let mut ended = Vec::new();
        lock(&self.inner.exports.open).retain(|_, open| {
            if count(&connections, &open.name) > 0 {
                open.expires_at = now.plus(open.ttl);
            }
            let keep = open.expires_at > now;
            if !keep {
                ended.push(open.name.clone());
            }
            keep
        });
        for name in ended {
            let _ = self.plane().registry().remove(&name, Removal::Hard);
        }
    }

    /// An export holds its point, also while nobody is connected to it: somebody made it to read
    /// from it. Points that others build on are held by the engine, which has their files open.
    pub(super) fn refuse_while_exported(&self, backup_id: &str) -> Result<()> {
        let open = lock(&self.inner.exports.open);
        let mut ids = open.iter().filter(|(_, e)| e.backup_id == backup_id);
        match ids.next() {
            None => Ok(()),
            Some((id, export)) => Err(Fault::new(
                Code::Busy,
                format!(
                    "{backup_id} is exported as {id} until {}, and by {} more",
                    export.expires_at,
                    ids.count()
                ),
            )
            .hint(format!("end it with `sendense-ctl backup unexport {id}`"))),
        }
    }

    /// `GET /exports`: the declared ones, that LIST shows.
    pub fn list_exports(&self) -> ExportList {
        let items = self.plane().registry().list();
        let exports = items
            .into_iter()
            .filter(|item| item.listed)
            .map(|item| Export {
                name: item.name,
                description: item.description,
                connections: item.connections as u64,
            });
        ExportList {
            exports: exports.collect(),
        }
    }

    fn connections(&self) -> Vec<(String, usize)> {
        let items = self.plane().registry().list();
        items.into_iter().map(|i| (i.name, i.connections)).collect()
    }

    fn export_view(&self, id: &str, open: &Open, connections: usize) -> RestoreExport {
        RestoreExport {
            export_id: id.to_owned(),
            backup_id: open.backup_id.clone(),
            disk_id: open.disk_id,
            size_bytes: open.size,
            export_name: open.name.clone(),
            nbd_uris: self.uris(&open.name),
            connections: connections as u64,
            expires_at: open.expires_at,
        }
    }
}

fn count(connections: &[(String, usize)], name: &str) -> usize {
    connections
        .iter()
        .filter(|(n, _)| n == name)
        .map(|(_, c)| c)
        .sum()
}
