//! `sendense-ctl backup push`: start, send from this machine, complete.
//!
//! Whatever fails in between, the backup is cancelled: nothing half sent waits in the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sendense_nbd::NbdError;
use sendense_nbd::client::ClientError as NbdClientError;
use tokio::task::JoinSet;

use super::interrupt::{Interruptible, blocking};
use super::progress::Bars;
use super::spec::{DiskPath, text_of};
use super::{CliError, Context, Result, args, backup, output};
use crate::client::ClientError;
use crate::mover::{self, MoveError, Push};
use crate::types::{
    Backup, BackupDisk, BackupType, Chain, Change, Code, Complete, CompleteDisk, JobStatus,
    StartBackup, StartDisk, VmChains,
};

/// Change lists up to this many extents go with the start itself.
pub(super) const INLINE_CHANGES: usize = 4096;
/// Seconds that one call waits for the seal.
const WAIT: Duration = Duration::from_secs(5);
/// Calls in a row that may find nobody: a seal is not given up for a hiccup of the network.
const MISSES: u32 = 5;

struct Disk {
    id: u32,
    path: PathBuf,
    size: u64,
    changes: Option<Vec<Change>>,
    changes_file: Option<PathBuf>,
}

pub(super) fn run(c: &Context, p: args::Push) -> Result<()> {
    let disks = look(&p)?;
    let start = request(c, &p, &disks)?;
    let work = Interruptible::new()?;
    let started = c.client.start_backup(&start)?;
    match work.run(send(c, &p, &disks, &started)) {
        Ok(done) => finish(c, &p, &done),
        Err(e) => Err(take_back(c, &started.backup_id, e)),
    }
}

/// Sizes and change lists, before anything is asked of the daemon.
fn look(p: &args::Push) -> Result<Vec<Disk>> {
    let usage = |text: String| CliError::new(64, text);
    let mut disks: Vec<Disk> = Vec::new();
    for DiskPath { disk, path } in &p.disks {
        if disks.iter().any(|d| d.id == *disk) {
            return Err(usage(format!("disk {disk} is given twice")));
        }
        let unreadable = |e| CliError::io(format!("{} cannot be read", path.display()), &e);
        let size = mover::size_of(path).map_err(unreadable)?;
        if let Some(warning) = mover::image_warning(path).map_err(unreadable)? {
            output::error_line(&format!("warning: {warning}"));
        }
        let list = p.changes.iter().find(|l| l.disk == *disk);
        let changes = list.map(|l| read_changes(&l.path)).transpose()?;
        let wrong = changes
            .iter()
            .flatten()
            .find(|r| r.length == 0 || r.offset.checked_add(r.length).is_none_or(|end| end > size));
        if let Some(r) = wrong {
            return Err(usage(format!(
                "disk {disk}: the change at {} of {} bytes does not lie within its {size} bytes",
                r.offset, r.length
            )));
        }
        disks.push(Disk {
            id: *disk,
            path: path.clone(),
            size,
            changes,
            changes_file: list.map(|l| l.path.clone()),
        });
    }
    let texts = [
        ("--base-change-id", &p.base),
        ("--change-id", &p.change_id),
        ("--device-key", &p.device_key),
    ];
    let named = texts
        .iter()
        .flat_map(|(option, list)| list.iter().map(|t| (*option, t.disk)))
        .chain(p.changes.iter().map(|l| ("--changes", l.disk)));
    for (option, n) in named {
        if disks.iter().all(|d| d.id != n) {
            return Err(usage(format!("{option} names disk {n}, --disk does not")));
        }
    }
    let bare = disks.iter().find(|d| d.changes.is_none());
    match (p.kind, bare) {
        (BackupType::Full, _) if !p.changes.is_empty() => Err(usage(
            "a full takes no --changes: it sends the whole disk".to_owned(),
        )),
        (BackupType::Full, _) | (_, None) => Ok(disks),
        (kind, Some(d)) => Err(
            usage(format!("{kind} needs the changed extents of disk {}", d.id)).hint(format!(
                "add --changes {}=changes.json, or send a full",
                d.id
            )),
        ),
    }
}

/// A list of changed extents: `[{"offset":..,"length":..}]`, or the same beneath `changes`.
pub(super) fn read_changes(path: &Path) -> Result<Vec<Change>> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Bare(Vec<Change>),
        Named { changes: Vec<Change> },
    }
    let bytes = std::fs::read(path)
        .map_err(|e| CliError::io(format!("{} cannot be read", path.display()), &e))?;
    match serde_json::from_slice(&bytes) {
        Ok(Shape::Bare(list) | Shape::Named { changes: list }) => Ok(list),
        Err(_) => Err(CliError::new(
            64,
            format!("{} is no list of changed extents", path.display()),
        )
        .hint("write [{\"offset\": BYTES, \"length\": BYTES}, ...]")),
    }
}

fn request(c: &Context, p: &args::Push, disks: &[Disk]) -> Result<StartBackup> {
    let bare = |d: &Disk| text_of(&p.base, d.id).is_none();
    let chains = if p.kind != BackupType::Full && disks.iter().any(bare) {
        match c.client.chain(&p.vm) {
            Ok(chains) => Some(chains),
            // The start says better what is wrong, or makes a full.
            Err(e) if e.code() == Some(Code::VmNotFound) => None,
            Err(e) => return Err(e.into()),
        }
    } else {
        None
    };
    let mut specs = Vec::with_capacity(disks.len());
    for d in disks {
        let base = match (p.kind, text_of(&p.base, d.id), &chains) {
            (BackupType::Full, _, _) => None,
            (_, Some(token), _) => Some(token),
            (kind, None, Some(chains)) => own_token(chains, d.id, kind, p.repository.as_deref())?,
            (_, None, None) => None,
        };
        specs.push(StartDisk {
            disk_id: d.id,
            size_bytes: Some(d.size),
            device_key: text_of(&p.device_key, d.id),
            // The bytes come from here, whatever the machine was registered with.
            source: Some("push".to_owned()),
            base_change_id: base,
            changes: d.changes.clone().filter(|l| l.len() <= INLINE_CHANGES),
            ..StartDisk::default()
        });
    }
    let mut start = StartBackup {
        vm_name: None,
        vm_id: None,
        backup_type: p.kind,
        repository: p.repository.clone(),
        allow_full: p.allow_full,
        cluster_size: p.cluster_size,
        disks: Some(specs),
    };
    backup::name_vm(&mut start, &p.vm);
    Ok(start)
}

/// The token of the point that this one builds on, where the daemon made it: then nobody else
/// keeps it, and the list can only be relative to that point. A token that somebody else made is
/// theirs to name: to echo the daemon's copy would switch the chain guard off.
fn own_token(
    chains: &VmChains,
    disk: u32,
    kind: BackupType,
    repository: Option<&str>,
) -> Result<Option<String>> {
    let current: Vec<&Chain> = chains
        .disks
        .iter()
        .filter(|d| d.disk_id == disk)
        .flat_map(|d| &d.chains)
        .filter(|chain| chain.current)
        .collect();
    let chain = match (repository, current.as_slice()) {
        (None, [only]) => Some(*only),
        (wanted, all) => {
            let wanted = wanted.unwrap_or("local");
            all.iter().copied().find(|chain| chain.repository == wanted)
        }
    };
    let point = chain.and_then(|chain| match kind {
        BackupType::Differential => chain.backups.iter().min_by_key(|p| p.sequence),
        _ => chain.backups.iter().max_by_key(|p| p.sequence),
    });
    match point.and_then(|p| p.change_id.clone()) {
        Some(t) if !t.starts_with("sendense:") => Err(CliError::new(
            64,
            format!("disk {disk} is at the change token {t:?}, which did not come from the daemon"),
        )
        .hint(format!(
            "add --base-change-id {disk}=TOKEN, the token that the changed extents are relative to"
        ))),
        token => Ok(token),
    }
}

async fn send(c: &Context, p: &args::Push, disks: &[Disk], started: &Backup) -> Result<Backup> {
    let bars = Bars::new(c);
    let mut sending: JoinSet<std::result::Result<(), MoveError>> = JoinSet::new();
    let mut pushes = Vec::with_capacity(disks.len());
    for d in disks {
        let told = started
            .disks
            .iter()
            .find(|t| t.disk_id == d.id)
            .ok_or_else(|| CliError::new(1, format!("the daemon started no disk {}", d.id)))?;
        let ranges = ranges(c, d, told, &started.backup_id).await?;
        let total = ranges
            .as_ref()
            .map_or(d.size, |l| l.iter().map(|r| r.1).sum());
        let (bar, progress) = bars.add(&format!("disk {}", d.id), total);
        let push = Push {
            path: d.path.clone(),
            uris: c.nbd_uris(&told.nbd_uris),
            ranges,
            connections: usize::from(p.connections),
            progress,
        };
        pushes.push((bar, push));
    }
    for (bar, push) in pushes {
        sending.spawn(async move {
            mover::push(push).await?;
            bar.done();
            Ok(())
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.map_err(|e| CliError::new(1, format!("a sender ended: {e}")))??;
    }
    let body = Complete {
        disks: disks
            .iter()
            .map(|d| CompleteDisk {
                disk_id: d.id,
                change_id: text_of(&p.change_id, d.id),
            })
            .collect(),
    };
    complete(c, &started.backup_id, &body).await
}

/// What to send. What is done decides, not what was asked: a full is sent whole.
async fn ranges(
    c: &Context,
    d: &Disk,
    told: &BackupDisk,
    id: &str,
) -> Result<Option<Vec<(u64, u64)>>> {
    let (Some(list), false) = (&d.changes, told.backup_type == BackupType::Full) else {
        return Ok(None);
    };
    if let (true, Some(path)) = (list.len() > INLINE_CHANGES, &d.changes_file) {
        let (c, id, n, path) = (c.clone(), id.to_owned(), d.id, path.clone());
        blocking(move || put_changes(&c, &id, n, &path)).await??;
    }
    Ok(Some(list.iter().map(|r| (r.offset, r.length)).collect()))
}

/// Sends a change list from its file, streamed.
pub(super) fn put_changes(c: &Context, id: &str, disk: u32, path: &Path) -> Result<Backup> {
    let file = std::fs::File::open(path).map_err(|e| CliError::io(path.display(), &e))?;
    Ok(c.client.put_changes(id, disk, file)?)
}

/// Completes and waits for the seal, however long it takes.
async fn complete(c: &Context, id: &str, body: &Complete) -> Result<Backup> {
    let mut misses = 0;
    loop {
        let (client, id, body) = (c.client.clone(), id.to_owned(), body.clone());
        match blocking(move || client.complete_backup(&id, &body, WAIT)).await? {
            Ok(b) if b.status.is_final() => return Ok(b),
            Ok(_) => misses = 0,
            Err(e @ ClientError::Refused(_)) => return Err(e.into()),
            Err(e) if misses >= MISSES => return Err(e.into()),
            Err(_) => misses += 1,
        }
        tokio::time::sleep(Duration::from_millis(200) * (1 + misses)).await;
    }
}

/// Cancels what was begun. The first error is the one that counts; what became of the backup is
/// told with it.
pub(super) fn take_back(c: &Context, id: &str, mut e: CliError) -> CliError {
    let why = match c.client.cancel_backup(id) {
        Ok(b) => {
            e.notes.push(format!("{id} is {}", b.status));
            return e;
        }
        Err(why) => why,
    };
    match c.client.backup(id, None) {
        // It had ended before: its own reason is the better one.
        Ok(b) if b.status.is_final() => {
            let reason = b.error_message.map(|m| format!(": {m}"));
            let reason = reason.unwrap_or_default();
            e.notes.push(format!("{id} is {}{reason}", b.status));
        }
        _ => {
            e.notes.push(format!("{id} could not be cancelled: {why}"));
            let look = format!("look at it with `sendense-ctl backup show --backup-id {id}`");
            e.hint.get_or_insert(look);
        }
    }
    e
}

fn finish(c: &Context, p: &args::Push, b: &Backup) -> Result<()> {
    output::show(c, b, output::backup)?;
    if b.status != JobStatus::Completed {
        return Err(CliError::ended(
            b.status,
            b.error_code.as_deref(),
            b.error_message.as_deref(),
        ));
    }
    backup::check_full(p.fail_on_full, b)
}

impl From<MoveError> for CliError {
    fn from(e: MoveError) -> Self {
        match &e {
            MoveError::File { what, source } => Self::io(what, source),
            MoveError::Nbd(inner) => {
                let code = match inner {
                    NbdClientError::Remote {
                        error: NbdError::NoSpace,
                        ..
                    } => 14,
                    _ => 1,
                };
                let hint = match inner {
                    NbdClientError::Tls(_) => {
                        "name a directory that holds the daemon's ca-cert.pem with \
                         --tls-certificates or SENDENSE_TLS_CERTIFICATES"
                    }
                    _ => inner.hint(),
                };
                Self::new(code, e.to_string()).hint(hint)
            }
            MoveError::Misfit(_) => Self::new(1, e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
