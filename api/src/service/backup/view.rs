//! What callers see of a backup: the catalog's rows, and the engine's counters while it runs.

use super::running::{Disk, Running};
use crate::auth::Caller;
use crate::service::{Fault, Result, Service};
use crate::store::{BackupRow, DiskRow};
use crate::types::{Backup, BackupDisk, Code, Job, JobDisk, JobKind, JobStatus, Time};

impl Service {
    /// `GET /backup/{id}`; the id is whole.
    pub(in crate::service) async fn view_backup(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Backup> {
        let row = self
            .store()
            .backup(id)
            .await?
            .ok_or_else(|| Fault::new(Code::BackupNotFound, format!("there is no {id}")))?;
        self.view_row(caller, row).await
    }

    /// The same from its row.
    pub(in crate::service) async fn view_row(
        &self,
        caller: &Caller,
        row: BackupRow,
    ) -> Result<Backup> {
        let rows = self.store().backup_disks(&row.id).await?;
        let running = self.running_job(&row.id);
        let root = self.repository(Some(&row.repository_id)).ok();
        let mut disks = Vec::with_capacity(rows.len());
        for disk in rows {
            let mut view = disk_view(disk)?;
            if let (Some(locator), Some(open), true) = (&view.locator, root, caller.sees_secrets())
            {
                view.path = Some(open.path.join(locator).display().to_string());
            }
            if let Some(running) = &running {
                self.add_live(caller, &mut view, running);
            }
            disks.push(view);
        }
        let sum = |f: fn(&BackupDisk) -> u64| disks.iter().map(f).fold(0, u64::saturating_add);
        let time = |t: Option<i64>| t.map(Time::from_micros);
        let status = parse(&row.status)?;
        Ok(Backup {
            repository: self.repository_name(&row.repository_id),
            requested_type: parse(&row.requested_type)?,
            backup_type: parse(&row.backup_type)?,
            reason: row.reason,
            status,
            phase: match &running {
                Some(running) => Some(running.phase()),
                None => row.phase.as_deref().map(parse).transpose()?,
            },
            parent_backup_id: row.parent_backup_id,
            vm_created: false,
            created_at: Time::from_micros(row.created_at),
            started_at: time(row.started_at),
            completed_at: time(row.completed_at),
            sealed_at: time(row.sealed_at),
            verified_at: time(row.verified_at),
            total_bytes: sum(|d| d.size_bytes),
            bytes_transferred: sum(|d| d.bytes_transferred),
            stored_bytes: sum(|d| d.stored_bytes),
            zero_bytes: sum(|d| d.zero_bytes),
            covered_bytes: sum(|d| d.covered_bytes),
            error_code: row.error_code,
            error_message: row.error_message,
            missing: row.missing != 0,
            damage: row.damage,
            backup_id: row.id,
            vm_id: row.vm_id,
            vm_name: row.vm_name,
            disks,
        })
    }

    fn add_live(&self, caller: &Caller, view: &mut BackupDisk, running: &Running) {
        let state = running.state();
        let Some(disk) = state.disks.iter().find(|d| d.number.get() == view.disk_id) else {
            return;
        };
        let p = disk.ingest.progress();
        view.bytes_transferred = p.transferred;
        view.stored_bytes = p.stored;
        view.zero_bytes = p.zero;
        view.covered_bytes = p.covered;
        view.complete = disk.part.token().is_some();
        if let (Some(export), true) = (&disk.export, caller.sees_secrets()) {
            let name = export.reveal();
            view.nbd_uris = self.uris(&name);
            view.export_name = Some(name);
        }
    }

    /// A backup as a job.
    pub(in crate::service) fn backup_job(&self, b: &Backup) -> Job {
        let running = self.running_job(&b.backup_id);
        let state = running.as_ref().map(|r| r.state());
        let live = |id: u32| {
            let disks = state.as_ref().map(|s| &s.disks);
            disks.and_then(|d| d.iter().find(|d| d.number.get() == id))
        };
        Job {
            job_id: b.backup_id.clone(),
            kind: JobKind::Backup,
            status: b.status,
            phase: b.phase,
            backup_id: b.backup_id.clone(),
            vm_name: b.vm_name.clone(),
            target: None,
            created_at: b.created_at,
            started_at: b.started_at,
            completed_at: b.completed_at,
            error_code: b.error_code.clone(),
            error_message: b.error_message.clone(),
            disks: b
                .disks
                .iter()
                .map(|d| job_disk(b, d, live(d.disk_id)))
                .collect(),
        }
    }
}

fn job_disk(b: &Backup, d: &BackupDisk, live: Option<&Disk>) -> JobDisk {
    let total_bytes = match live {
        Some(l) => l.total,
        // What was sent was all there was to send.
        None if b.status == JobStatus::Completed => d.covered_bytes,
        None => d.size_bytes,
    };
    let begun = live.and_then(|l| l.first_at).or(b.started_at);
    let ended = b.completed_at.unwrap_or_else(Time::now);
    let seconds = begun.map_or(0.0, |t| ended.seconds_since(t));
    let rate_bps = rate(d.covered_bytes, seconds);
    let left = total_bytes.saturating_sub(d.covered_bytes);
    JobDisk {
        disk_id: d.disk_id,
        total_bytes,
        bytes_transferred: d.bytes_transferred,
        stored_bytes: d.stored_bytes,
        zero_bytes: d.zero_bytes,
        covered_bytes: d.covered_bytes,
        rate_bps,
        eta_seconds: match live {
            Some(_) => left.checked_div(rate_bps),
            None => None,
        },
    }
}

/// Bytes per second.
pub(in crate::service) fn rate(bytes: u64, seconds: f64) -> u64 {
    // Milliseconds keep it in whole numbers; more than 2^53 of them nobody waits.
    let millis = std::time::Duration::try_from_secs_f64(seconds)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    bytes
        .saturating_mul(1000)
        .checked_div(millis)
        .unwrap_or_default()
}

/// A stored word.
pub(in crate::service) fn parse<T: std::str::FromStr<Err = String>>(word: &str) -> Result<T> {
    word.parse()
        .map_err(|e| Fault::internal(format!("the catalog holds an unreadable value: {e}")))
}

fn disk_view(row: DiskRow) -> Result<BackupDisk> {
    Ok(BackupDisk {
        disk_id: row.disk_id,
        size_bytes: row.size_bytes,
        cluster_size: row.cluster_size,
        device_key: row.device_key,
        backup_type: parse(&row.backup_type)?,
        source: row.source,
        parent_backup_id: row.parent_backup_id,
        export_name: row.export_name,
        nbd_uris: Vec::new(),
        base_change_id: row.base_change_id,
        change_id: row.change_id,
        bytes_transferred: row.bytes_transferred,
        stored_bytes: row.stored_bytes,
        zero_bytes: row.zero_bytes,
        covered_bytes: row.covered_bytes,
        complete: row.sealed_at.is_some(),
        locator: row.locator,
        path: None,
    })
}
