//! `sendense-ctl backup`.

use std::time::Duration;

use super::{CliError, Context, Result, args, job, output, push, restore};
use crate::client::BackupQuery;
use crate::types::{
    Backup, BackupList, BackupType, Complete, CompleteDisk, JobStatus, RestoreExportRequest,
    StartBackup, StartDisk,
};

/// That one call waits for the seal.
const WAIT: Duration = Duration::from_secs(30);

pub(super) fn run(c: &Context, verb: args::Backup) -> Result<()> {
    match verb {
        args::Backup::Start(s) => start(c, s),
        args::Backup::Push(p) => push::run(c, p),
        args::Backup::List(l) => list(c, l),
        args::Backup::Show(w) => {
            let b = c.client.backup(w.id(), w.vm.as_deref())?;
            output::show(c, &b, output::backup)
        }
        args::Backup::Chain { vm } => output::show(c, &c.client.chain(&vm)?, output::chains),
        args::Backup::Complete(x) => complete(c, x),
        args::Backup::Cancel(w) => {
            let b = c.client.cancel_backup(&resolve(c, &w)?)?;
            output::show(c, &b, output::backup)
        }
        args::Backup::Delete(d) => delete(c, d),
        args::Backup::Restore(r) => restore::run(c, r),
        args::Backup::Export(e) => {
            let export = c.client.restore_export(&RestoreExportRequest {
                backup_id: resolve(c, &e.which)?,
                disk_id: e.disk,
                ttl_seconds: e.ttl,
            })?;
            output::show(c, &export, output::restore_export)
        }
        args::Backup::Exports => {
            output::show(c, &c.client.restore_exports()?, output::restore_exports)
        }
        args::Backup::Unexport { export_id } => {
            let export = c.client.end_restore_export(&export_id)?;
            output::show(c, &export, output::restore_export)
        }
        args::Backup::Verify(v) => verify(c, v),
    }
}

/// The whole id behind a beginning of it or `latest`.
fn resolve(c: &Context, which: &args::Which) -> Result<String> {
    Ok(c.client.backup(which.id(), which.vm.as_deref())?.backup_id)
}

/// Names the machine by id where it looks like one, else by name.
pub(super) fn name_vm(start: &mut StartBackup, vm: &str) {
    if uuid::Uuid::parse_str(vm).is_ok() {
        start.vm_id = Some(vm.to_owned());
    } else {
        start.vm_name = Some(vm.to_owned());
    }
}

/// `--fail-on-full`: each disk counts, new ones too. Whoever sends all of a disk's bytes should
/// know it, whatever the reason.
pub(super) fn check_full(wanted: bool, b: &Backup) -> Result<()> {
    if !wanted || b.requested_type == BackupType::Full {
        return Ok(());
    }
    let full = b.disks.iter().filter(|d| d.backup_type == BackupType::Full);
    let full: Vec<String> = full.map(|d| d.disk_id.to_string()).collect();
    if full.is_empty() && b.backup_type != BackupType::Full {
        return Ok(());
    }
    Err(CliError::new(
        3,
        format!(
            "a full was made where {} was asked (disk {}): {}",
            b.requested_type,
            full.join(", "),
            b.reason
        ),
    ))
}

fn start(c: &Context, s: args::Start) -> Result<()> {
    let mut disks: Vec<StartDisk> = s.disks.into_iter().map(|d| d.0).collect();
    let mut long = Vec::new();
    for l in s.changes {
        let list = push::read_changes(&l.path)?;
        let changes = if list.len() <= push::INLINE_CHANGES {
            Some(list)
        } else {
            long.push((l.disk, l.path));
            None
        };
        match disks.iter_mut().find(|d| d.disk_id == l.disk) {
            Some(disk) => disk.changes = changes,
            None => disks.push(StartDisk {
                disk_id: l.disk,
                changes,
                ..StartDisk::default()
            }),
        }
    }
    let mut body = StartBackup {
        vm_name: None,
        vm_id: None,
        backup_type: s.kind,
        repository: s.repository,
        allow_full: s.allow_full,
        cluster_size: s.cluster_size,
        disks: (!disks.is_empty()).then_some(disks),
    };
    name_vm(&mut body, &s.vm);
    let mut started = c.client.start_backup(&body)?;
    for (disk, path) in long {
        let told = started.disks.iter().find(|d| d.disk_id == disk);
        if told.is_some_and(|d| d.backup_type != BackupType::Full) {
            let sent = push::put_changes(c, &started.backup_id, disk, &path);
            started = sent.map_err(|e| push::take_back(c, &started.backup_id, e))?;
        }
    }
    output::show(c, &started, output::backup)?;
    check_full(s.fail_on_full, &started)
}

fn list(c: &Context, l: args::List) -> Result<()> {
    let mut query = BackupQuery {
        status: l.status,
        repository: l.repository,
        ..BackupQuery::default()
    };
    match l.vm {
        Some(vm) if uuid::Uuid::parse_str(&vm).is_ok() => query.vm_id = Some(vm),
        vm => query.vm_name = vm,
    }
    let mut all = BackupList {
        backups: Vec::new(),
        next_cursor: None,
    };
    let mut left = l.limit;
    while left > 0 {
        query.limit = Some(left.min(job::PAGE));
        let page = c.client.backups(&query)?;
        left = left.saturating_sub(u32::try_from(page.backups.len()).unwrap_or(u32::MAX));
        all.backups.extend(page.backups);
        all.next_cursor.clone_from(&page.next_cursor);
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    output::show(c, &all, output::backups)
}

fn complete(c: &Context, x: args::Complete) -> Result<()> {
    let mut body = Complete::default();
    for text in &x.disks {
        let (n, token) = match text.split_once('=') {
            Some((n, token)) => (n, Some(token.to_owned())),
            None => (text.as_str(), None),
        };
        let disk_id = n
            .parse()
            .map_err(|_| CliError::new(64, format!("{text:?} is neither N nor N=TOKEN")))?;
        body.disks.push(CompleteDisk {
            disk_id,
            change_id: token,
        });
    }
    let id = resolve(c, &x.which)?;
    let mut b =
        c.client
            .complete_backup(&id, &body, if x.no_wait { Duration::ZERO } else { WAIT })?;
    // Where other disks are still to come there is nothing to wait for.
    while !x.no_wait && !b.status.is_final() && b.disks.iter().all(|d| d.complete) {
        std::thread::sleep(Duration::from_millis(200));
        b = c.client.complete_backup(&id, &body, WAIT)?;
    }
    output::show(c, &b, output::backup)?;
    if matches!(b.status, JobStatus::Failed | JobStatus::Cancelled) {
        let (code, message) = (b.error_code.as_deref(), b.error_message.as_deref());
        return Err(CliError::ended(b.status, code, message));
    }
    Ok(())
}

fn delete(c: &Context, d: args::Delete) -> Result<()> {
    let id = resolve(c, &d.which)?;
    if !d.dry_run && !d.yes {
        let plan = c.client.delete_backup(&id, d.with_dependents, true)?;
        for item in &plan.deleted {
            output::error_line(&format!(
                "  {} ({})",
                item.backup_id,
                output::bytes(item.bytes)
            ));
        }
        for warning in &plan.warnings {
            output::error_line(&format!("  warning: {warning}"));
        }
        output::confirm(&format!("Delete {} restore points?", plan.deleted.len()))?;
    }
    let done = c.client.delete_backup(&id, d.with_dependents, d.dry_run)?;
    output::show(c, &done, output::deletion)
}

fn verify(c: &Context, v: args::Verify) -> Result<()> {
    let started = c.client.verify_backup(&resolve(c, &v.which)?)?;
    if v.no_wait {
        return output::show(c, &started, output::job);
    }
    let done = job::watch(c, &started.job_id)?;
    output::show(c, &done, output::job)?;
    job::ended(&done)
}
