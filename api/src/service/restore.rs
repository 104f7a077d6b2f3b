//! Restoring a disk to a place on the daemon's side, and verifying a restore point: both as jobs.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use jiff::Timestamp;
use sendense_engine::ErrorKind;
use sendense_engine::repository::{StateEntry, StateEvent};
use sendense_engine::restore::{FileFormat, RestoreTarget, restore};
use sendense_engine::storage::Create;
use sendense_engine::transfer::Progress;
use sendense_engine::verify::verify;
use sendense_formats::ClusterSize;
use sendense_nbd::client::ConnectOptions;

use super::backup::{Place, check_remote, paths, refusal};
use super::exports::SealedDisk;
use super::{Fault, Result, Service, blocking, to_the_end};
use crate::auth::{self, Caller};
use crate::config::Allow;
use crate::store::{AuditRow, TaskRow};
use crate::types::{Code, ImageFormat, Job, RestoreDisk, Time};

/// The list that targets lie beneath.
const KEY: &str = "targets.allow";
/// Connections to a remote target.
const CONNECTIONS: usize = 4;
/// Findings that are named in a job's message.
const NAMED: usize = 3;

impl Service {
    /// `POST /restore/disk`.
    pub async fn restore_disk(&self, caller: &Caller, request: RestoreDisk) -> Result<Job> {
        let (service, caller) = (self.clone(), caller.clone());
        to_the_end(async move { service.begin_restore(&caller, request).await }).await
    }

    async fn begin_restore(&self, caller: &Caller, request: RestoreDisk) -> Result<Job> {
        let found = self
            .sealed_disk(&request.backup_id, request.disk_id)
            .await?;
        let target = self.restore_target(&request).await?;
        let row = self
            .task(caller, "restore", &found, Some(request.target))
            .await?;
        self.start_task(row, move |service, progress| async move {
            let chain = service
                .chain(&found.repository, found.vm, &found.backup, found.disk)
                .await?;
            service
                .on_plane(move |io| async move {
                    restore(&io, &chain, target, &progress).await?;
                    Ok(())
                })
                .await
        })
        .await
    }

    /// The place, if it may be written.
    async fn restore_target(&self, request: &RestoreDisk) -> Result<RestoreTarget> {
        let allow = self.config().targets.clone();
        let overwrite = request.overwrite;
        match Place::parse(&request.target)? {
            Place::Push => Err(Fault::invalid("push is no target")),
            Place::Nbd(_) if !overwrite => Err(Fault::new(
                Code::Exists,
                "an NBD target has content: say overwrite to replace it",
            )),
            Place::Nbd(_) if request.format != ImageFormat::Raw => {
                Err(Fault::invalid("an NBD target is written raw"))
            }
            Place::Nbd(uri) => {
                check_remote(&allow, KEY, &uri)?;
                Ok(RestoreTarget::Nbd {
                    uri,
                    connections: CONNECTIONS,
                    options: ConnectOptions::default(),
                })
            }
            Place::File(path) => {
                let format = match request.format {
                    ImageFormat::Raw => FileFormat::Raw,
                    ImageFormat::Qcow2 => FileFormat::Qcow2(ClusterSize::DEFAULT),
                };
                blocking(move || local_target(&allow, path, format, overwrite)).await
            }
        }
    }

    /// `POST /backup/{id}/verify`: all disks, all layers.
    pub async fn verify_backup(&self, caller: &Caller, id: &str) -> Result<Job> {
        let (service, caller, id) = (self.clone(), caller.clone(), id.to_owned());
        to_the_end(async move { service.begin_verify(&caller, &id).await }).await
    }

    async fn begin_verify(&self, caller: &Caller, id: &str) -> Result<Job> {
        let id = self.resolve_backup(id, None).await?;
        let disks = self.store().backup_disks(&id).await?;
        let first = disks.first().map_or(0, |d| d.disk_id);
        let found = self.sealed_disk(&id, first).await?;
        let row = self.task(caller, "verify", &found, None).await?;
        let numbers: Vec<u32> = disks.iter().map(|d| d.disk_id).collect();
        self.start_task(row, move |service, progress| async move {
            service.verify_disks(found, numbers, progress).await
        })
        .await
    }

    async fn verify_disks(
        &self,
        found: SealedDisk,
        disks: Vec<u32>,
        progress: Progress,
    ) -> Result<()> {
        let (repository, vm, id) = (found.repository, found.vm, found.backup);
        let backup_id = id.as_str().to_owned();
        let now = Time::now();
        let outcome = blocking(move || {
            let mut checked = 0_u64;
            let mut damage = Vec::new();
            let mut total = 0;
            // Every point that is read through a damaged layer, this one among them.
            let mut hit = BTreeSet::from([id.clone()]);
            let points = repository.points(vm)?;
            for disk in disks {
                let disk = sendense_engine::repository::DiskNumber::new(disk)?;
                match repository.layers(vm, &id, disk) {
                    Ok(layers) => {
                        let report = verify(&layers, &progress)?;
                        checked = checked.saturating_add(report.checked);
                        total += report.damage;
                        hit.extend(points.reading(disk, &report.layers));
                        let sound = report.is_sound();
                        let found = report.findings.into_iter().filter(|_| !sound);
                        damage.extend(found.map(|f| format!("{}: {}", f.file, f.detail)));
                    }
                    Err(e) if is_damage(&e) => {
                        total += 1;
                        damage.push(e.to_string());
                    }
                    // In use, or not to be read at the moment: nothing was found out.
                    Err(e) => return Err(e.into()),
                }
            }
            damage.truncate(NAMED);
            let detail = damage.join("; ");
            let note = StateEntry {
                at: Timestamp::from(now),
                event: StateEvent::Verified {
                    ok: total == 0,
                    bytes: checked,
                    detail: detail.clone(),
                },
            };
            match repository.add_note(vm, &id, &note) {
                // What was found is said, wherever it cannot be written down.
                Err(e) if total > 0 => tracing::error!(backup = %id, "a note is lost: {e}"),
                other => other?,
            }
            Ok((total, detail, hit))
        })
        .await?;
        match outcome {
            (0, ..) => {
                let mut tx = self.store().begin_write().await?;
                tx.set_backup_verified(&backup_id, now.micros()).await?;
                tx.commit().await?;
                Ok(())
            }
            (n, detail, hit) => {
                let mut tx = self.store().begin_write().await?;
                for id in hit {
                    tx.set_backup_damage(id.as_str(), Some(&detail), Some(now.micros()))
                        .await?;
                }
                tx.commit().await?;
                Err(Fault::new(
                    Code::Damaged,
                    format!("{n} places are damaged: {detail}"),
                ))
            }
        }
    }

    async fn task(
        &self,
        caller: &Caller,
        kind: &str,
        found: &SealedDisk,
        target: Option<String>,
    ) -> Result<TaskRow> {
        let now = Time::now().micros();
        let id = format!("{kind}-{}", auth::random_base32(12)?);
        let mut tx = self.store().begin_write().await?;
        tx.audit(&AuditRow {
            at: now,
            actor: caller.name.clone(),
            action: format!("backup.{kind}"),
            object: found.backup.as_str().to_owned(),
            detail: id.clone(),
        })
        .await?;
        tx.commit().await?;
        let restoring = kind == "restore";
        Ok(TaskRow {
            id,
            kind: kind.to_owned(),
            backup_id: found.backup.as_str().to_owned(),
            vm_name: found.vm_name.clone(),
            disk_id: restoring.then(|| i64::from(found.disk.get())),
            target,
            status: "running".to_owned(),
            phase: Some(if restoring { "restoring" } else { "verifying" }.to_owned()),
            total_bytes: 0,
            bytes_transferred: 0,
            error_code: None,
            error_message: None,
            created_at: now,
            started_at: Some(now),
            completed_at: None,
        })
    }
}

/// A file to be made, or a block device to be written over. Refused now rather than by a job that
/// fails. Blocking.
fn local_target(
    allow: &Allow,
    path: PathBuf,
    format: FileFormat,
    overwrite: bool,
) -> Result<RestoreTarget> {
    let list = paths(allow, KEY)?;
    let name = path.display().to_string();
    let exists = match list.open(&path, Create::OpenRead) {
        Ok(_) => true,
        Err(e) if e.kind == ErrorKind::NotFound => false,
        Err(e) => return Err(refusal(KEY, &path, e)),
    };
    if exists && !overwrite {
        return Err(Fault::new(Code::Exists, format!("{name} is there already"))
            .hint("say overwrite to replace it"));
    }
    let is_device = std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_block_device());
    if exists && is_device {
        if format != FileFormat::Raw {
            return Err(Fault::invalid("a block device is written raw"));
        }
        let file = list.open(&path, Create::Claim).map_err(|e| match e.kind {
            ErrorKind::Busy => Fault::new(
                Code::Busy,
                format!("{name} is mounted, or another program has claimed it"),
            )
            .hint("unmount it, or end what uses it, before it is written over"),
            _ => refusal(KEY, &path, e),
        })?;
        return Ok(RestoreTarget::Device { file, name });
    }
    let (directory, path) = list.directory(&path).map_err(|e| refusal(KEY, &path, e))?;
    Ok(RestoreTarget::File {
        directory,
        path,
        format,
        overwrite,
    })
}

/// Whether a layer that cannot be opened is a finding, and not a passing trouble.
fn is_damage(e: &sendense_engine::Error) -> bool {
    use sendense_engine::ErrorKind::{Damaged, NotFound, Unsupported};
    matches!(e.kind, Damaged | NotFound | Unsupported)
}
