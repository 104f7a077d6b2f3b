//! `sendense-ctl backup restore`: to this machine over an export, or on the daemon's side.

use std::path::Path;
use std::time::Duration;

use sendense_nbd::client::ClientError as NbdClientError;

use super::interrupt::Interruptible;
use super::progress::Bars;
use super::{CliError, Context, Result, args, job, output};
use crate::mover::{self, Fetch, MoveError};
use crate::types::{Backup, Code, ImageFormat, RestoreDisk, RestoreExportRequest};

pub(super) fn run(c: &Context, r: args::Restore) -> Result<()> {
    let there = r.to.as_deref().is_some_and(Path::exists);
    if let (Some(path), true, false, false) = (&r.to, there, r.overwrite, r.dry_run) {
        return Err(
            CliError::new(1, format!("{} is there already", path.display()))
                .hint("choose another name, or add --overwrite to replace it"),
        );
    }
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
        let over = if there { ", over what is there" } else { "" };
        return output::line(&format!("would write {what}{over}"));
    }
    // To write over something was asked in so many words: a script is not asked again.
    if r.overwrite && (there || r.target.is_some()) && !r.yes && output::can_ask() {
        output::confirm(&format!("Write {what}, over what is there?"))?;
    }
    match (&r.to, &r.target) {
        (Some(path), _) => here(c, &backup, &r, path, size),
        (None, Some(target)) => on_the_daemons_side(c, &backup, &r, target),
        (None, None) => Ok(()),
    }
}

fn here(c: &Context, backup: &Backup, r: &args::Restore, path: &Path, size: u64) -> Result<()> {
    let work = Interruptible::new()?;
    let export = c.client.restore_export(&RestoreExportRequest {
        backup_id: backup.backup_id.clone(),
        disk_id: r.disk,
        ttl_seconds: Some(600),
    })?;
    let (bar, progress) = Bars::new(c).add(&format!("disk {}", r.disk), size);
    let fetch = Fetch {
        uris: c.nbd_uris(&export.nbd_uris),
        path: path.to_owned(),
        overwrite: r.overwrite,
        connections: usize::from(r.connections),
        progress,
    };
    let fetched = work.run(async {
        let fetched = mover::fetch(fetch).await;
        fetched.map_err(|e| match e {
            MoveError::Nbd(NbdClientError::Remote { .. }) => CliError::from(e).hint(format!(
                "see whether it is damaged: `sendense-ctl backup verify --backup-id {}`",
                backup.backup_id
            )),
            e => e.into(),
        })
    });
    bar.clear();
    close(c, &export.export_id);
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
    ))
}

/// Closes the export. It would expire by itself, but until then it holds its restore point.
fn close(c: &Context, export_id: &str) {
    for _ in 0..10 {
        match c.client.end_restore_export(export_id) {
            // Our connections are on their way out.
            Err(e) if e.code() == Some(Code::Busy) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => return,
        }
    }
}

fn on_the_daemons_side(
    c: &Context,
    backup: &Backup,
    r: &args::Restore,
    target: &str,
) -> Result<()> {
    let started = c.client.restore_disk(&RestoreDisk {
        backup_id: backup.backup_id.clone(),
        disk_id: r.disk,
        target: target.to_owned(),
        format: r.image_format.unwrap_or(ImageFormat::Raw),
        overwrite: r.overwrite,
    })?;
    let done = job::watch(c, &started.job_id)?;
    output::show(c, &done, output::job)?;
    job::ended(&done)
}
