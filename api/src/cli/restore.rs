//! `sendense-ctl backup restore`: to this machine over an export, or on the daemon's side.

use std::path::Path;

use super::progress::Bars;
use super::{CliError, Context, Result, args, job, output};
use crate::mover::{self, Fetch};
use crate::types::{Backup, RestoreDisk, RestoreExportRequest};

pub(super) fn run(c: &Context, r: args::Restore) -> Result<()> {
    let backup = c.client.backup(r.which.id(), r.which.vm.as_deref())?;
    let size = backup
        .disks
        .iter()
        .find(|d| d.disk_id == r.disk)
        .map(|d| d.size_bytes)
        .ok_or_else(|| {
            CliError::new(10, format!("{} has no disk {}", backup.backup_id, r.disk))
                .hint("`sendense-ctl backup show` names the disks")
        })?;
    let place = match (&r.to, &r.target) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(target)) => target.clone(),
        (None, None) => return Err(CliError::new(64, "neither --to nor --target is given")),
    };
    let what = format!(
        "disk {} of {} ({} bytes) to {place}",
        r.disk, backup.backup_id, size
    );
    if r.dry_run {
        output::line(&format!("would write {what}"));
        return Ok(());
    }
    if r.overwrite && !r.yes {
        output::confirm(&format!("Write {what}, over what is there?"))?;
    }
    match (&r.to, &r.target) {
        (Some(path), _) => here(c, &backup, &r, path, size),
        (None, Some(target)) => there(c, &backup, &r, target),
        (None, None) => Ok(()),
    }
}

fn here(c: &Context, backup: &Backup, r: &args::Restore, path: &Path, size: u64) -> Result<()> {
    let export = c.client.restore_export(&RestoreExportRequest {
        backup_id: backup.backup_id.clone(),
        disk_id: r.disk,
        ttl_seconds: Some(600),
    })?;
    let (bar, progress) = Bars::new(c).add(&format!("disk {}", r.disk), size);
    let fetched = super::push::runtime()?.block_on(mover::fetch(Fetch {
        uris: export.nbd_uris.clone(),
        path: path.to_owned(),
        overwrite: r.overwrite,
        connections: usize::from(r.connections),
        progress,
    }));
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    // It expires by itself; closing it early is a courtesy.
    let _ = c.client.end_restore_export(&export.export_id);
    fetched?;
    if c.json {
        return output::json(&serde_json::json!({
            "backup_id": backup.backup_id,
            "disk_id": r.disk,
            "size_bytes": size,
            "path": path,
        }));
    }
    output::line(&format!(
        "restored disk {} of {} to {} ({} bytes)",
        r.disk,
        backup.backup_id,
        path.display(),
        size
    ));
    Ok(())
}

fn there(c: &Context, backup: &Backup, r: &args::Restore, target: &str) -> Result<()> {
    let started = c.client.restore_disk(&RestoreDisk {
        backup_id: backup.backup_id.clone(),
        disk_id: r.disk,
        target: target.to_owned(),
        format: r.image_format,
        overwrite: r.overwrite,
    })?;
    let done = job::watch(c, &started.job_id)?;
    output::job(c, &done)?;
    job::ended(&done)
}
