//! `sendense-ctl backup push`: start, send from this machine, complete.
//!
//! Whatever fails in between, the backup is cancelled: nothing half sent waits in the daemon.

use std::path::Path;
use std::time::Duration;

use super::progress::Bars;
use super::spec::{DiskPath, text_of};
use super::{CliError, Context, Result, args, backup, output};
use crate::mover::{self, MoveError, Push};
use crate::types::{
    Backup, BackupType, Change, Complete, CompleteDisk, JobStatus, StartBackup, StartDisk,
};

/// Change lists up to this many extents go with the start itself.
const INLINE_CHANGES: usize = 4096;

pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|e| CliError::io("the runtime cannot be started", &e))
}

struct Disk {
    id: u32,
    path: std::path::PathBuf,
    size: u64,
    changes: Option<Vec<Change>>,
    changes_file: Option<std::path::PathBuf>,
}

pub(super) fn run(c: &Context, p: args::Push) -> Result<()> {
    let disks = look(&p)?;
    let mut start = StartBackup {
        vm_name: None,
        vm_id: None,
        backup_type: p.kind,
        repository: p.repository.clone(),
        allow_full: p.allow_full,
        disks: Some(Vec::new()),
    };
    backup::name_vm(&mut start, &p.vm);
    let mut specs = Vec::new();
    for d in &disks {
        let base = match (p.kind, text_of(&p.base, d.id)) {
            (BackupType::Full, _) => None,
            (_, Some(token)) => Some(token),
            (kind, None) => own_token(c, &p.vm, d.id, kind)?,
        };
        specs.push(StartDisk {
            disk_id: d.id,
            size_bytes: Some(d.size),
            device_key: text_of(&p.device_key, d.id),
            base_change_id: base,
            changes: d.changes.clone().filter(|l| l.len() <= INLINE_CHANGES),
            ..StartDisk::default()
        });
    }
    start.disks = Some(specs);
    let started = c.client.start_backup(&start)?;
    match send(c, &p, &disks, &started) {
        Ok(done) => finish(c, &p, &done),
        Err(e) => {
            // The first error is the one that counts.
            let _ = c.client.cancel_backup(&started.backup_id);
            Err(e)
        }
    }
}

/// Sizes and change lists, before anything is asked of the daemon.
fn look(p: &args::Push) -> Result<Vec<Disk>> {
    let mut disks: Vec<Disk> = Vec::new();
    for DiskPath { disk, path } in &p.disks {
        if disks.iter().any(|d| d.id == *disk) {
            return Err(CliError::new(64, format!("disk {disk} is given twice")));
        }
        let size = mover::size_of(path)
            .map_err(|e| CliError::io(format!("{} cannot be read", path.display()), &e))?;
        let list = p.changes.iter().find(|l| l.disk == *disk);
        let changes = list.map(|l| read_changes(&l.path)).transpose()?;
        disks.push(Disk {
            id: *disk,
            path: path.clone(),
            size,
            changes,
            changes_file: list.map(|l| l.path.clone()),
        });
    }
    if let Some(l) = p
        .changes
        .iter()
        .find(|l| disks.iter().all(|d| d.id != l.disk))
    {
        return Err(CliError::new(
            64,
            format!("--changes names disk {}, --disk does not", l.disk),
        ));
    }
    let bare = disks.iter().find(|d| d.changes.is_none());
    if let (false, Some(d)) = (p.kind == BackupType::Full, bare) {
        return Err(CliError::new(
            64,
            format!("an {} of disk {} needs its changed extents", p.kind, d.id),
        )
        .hint(format!(
            "add --changes {}=changes.json, or send a full",
            d.id
        )));
    }
    Ok(disks)
}

/// A list of changed extents: `[{"offset":..,"length":..}]`, or the same beneath `changes`.
pub(super) fn read_changes(path: &Path) -> Result<Vec<Change>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Bare(Vec<Change>),
        Named { changes: Vec<Change> },
    }
    let failed = |e: &dyn std::fmt::Display| {
        CliError::new(64, format!("{}: {e}", path.display()))
            .hint("write [{\"offset\": BYTES, \"length\": BYTES}, ...]")
    };
    let bytes = std::fs::read(path)
        .map_err(|e| CliError::io(format!("{} cannot be read", path.display()), &e))?;
    match serde_json::from_slice(&bytes).map_err(|e| failed(&e))? {
        Shape::Bare(list) | Shape::Named { changes: list } => Ok(list),
    }
}

/// The token of the point that this one builds on, where the daemon made it: then nobody else
/// keeps it, and the list can only be relative to that point.
fn own_token(c: &Context, vm: &str, disk: u32, kind: BackupType) -> Result<Option<String>> {
    let chains = c.client.chain(vm)?;
    let current = chains
        .disks
        .iter()
        .filter(|d| d.disk_id == disk)
        .flat_map(|d| &d.chains)
        .find(|chain| chain.current);
    let point = current.and_then(|chain| match kind {
        BackupType::Differential => chain.backups.first(),
        _ => chain.backups.last(),
    });
    let token = point.and_then(|p| p.change_id.clone());
    match token {
        Some(t) if !t.starts_with("sendense:") => Err(CliError::new(
            64,
            format!(
                "disk {disk} is at the change token {t:?}, which this machine's hypervisor made"
            ),
        )
        .hint(format!(
            "add --base {disk}=TOKEN, the token that the changed extents are relative to"
        ))),
        token => Ok(token),
    }
}

fn send(c: &Context, p: &args::Push, disks: &[Disk], started: &Backup) -> Result<Backup> {
    let bars = Bars::new(c);
    let mut pushes = Vec::new();
    for d in disks {
        let told = started
            .disks
            .iter()
            .find(|t| t.disk_id == d.id)
            .ok_or_else(|| CliError::new(1, format!("the daemon started no disk {}", d.id)))?;
        // What is done decides: a full is sent whole, whatever was asked.
        let ranges = match (&d.changes, told.backup_type) {
            (_, BackupType::Full) | (None, _) => None,
            (Some(list), _) => {
                if list.len() > INLINE_CHANGES
                    && let Some(path) = &d.changes_file
                {
                    let file =
                        std::fs::File::open(path).map_err(|e| CliError::io(path.display(), &e))?;
                    c.client.put_changes(&started.backup_id, d.id, file)?;
                }
                Some(
                    list.iter()
                        .map(|r| (r.offset, r.length))
                        .collect::<Vec<_>>(),
                )
            }
        };
        let total = ranges
            .as_ref()
            .map_or(d.size, |l| l.iter().map(|r| r.1).sum());
        let (bar, progress) = bars.add(&format!("disk {}", d.id), total);
        pushes.push((
            bar,
            Push {
                path: d.path.clone(),
                uris: told.nbd_uris.clone(),
                ranges,
                connections: usize::from(p.connections),
                progress,
            },
        ));
    }
    runtime()?.block_on(async {
        let all = async {
            for (bar, push) in pushes {
                mover::push(push).await?;
                if let Some(bar) = bar {
                    bar.finish();
                }
            }
            Ok::<(), MoveError>(())
        };
        tokio::select! {
            sent = all => sent.map_err(CliError::from),
            _ = tokio::signal::ctrl_c() => Err(CliError::new(130, "interrupted: the backup is cancelled")),
        }
    })?;
    let body = Complete {
        disks: disks
            .iter()
            .map(|d| CompleteDisk {
                disk_id: d.id,
                change_id: text_of(&p.change_id, d.id),
            })
            .collect(),
    };
    complete(c, &started.backup_id, &body)
}

/// Completes and waits for the seal, however long it takes.
pub(super) fn complete(c: &Context, id: &str, body: &Complete) -> Result<Backup> {
    loop {
        let b = c
            .client
            .complete_backup(id, body, Duration::from_secs(30))?;
        if b.status.is_final() {
            return Ok(b);
        }
    }
}

fn finish(c: &Context, p: &args::Push, b: &Backup) -> Result<()> {
    output::backup(c, b)?;
    if b.status != JobStatus::Completed {
        return Err(CliError::new(1, format!("the backup is {}", b.status)));
    }
    backup::check_full(p.fail_on_full, b)
}

impl From<MoveError> for CliError {
    fn from(e: MoveError) -> Self {
        match &e {
            MoveError::File { what, source } => Self::io(what, source),
            MoveError::Nbd(inner) => Self::new(1, e.to_string()).hint(inner.hint()),
            MoveError::Misfit(_) => Self::new(1, e.to_string()),
        }
    }
}
