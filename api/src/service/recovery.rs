//! What a start does before any listener opens: the repositories end what was left half done, and
//! the catalog follows them.
//!
//! - A job that had not ended has either become a point (its manifest is there) or has failed.
//! - A manifest without a row is taken in; a row without its manifest is reported as missing.
//! - Nothing is deleted here but what the repository's own recovery deletes.

use std::collections::BTreeSet;

use sendense_engine::repository::{
    BackupId, LOCK_WAIT, RecoveryReport, StateEvent, StateLog, VmId, VmPoints,
};

use super::{OpenRepository, Result, Service, blocking, catalog};
use crate::store::ListFilter;
use crate::types::{Code, Time};

/// The most jobs that one look asks the catalog for.
const PAGE: u32 = 500;

impl Service {
    /// Brings repositories and catalog together.
    pub async fn recover(&self) -> Result<()> {
        let known = self.known_jobs().await?;
        for open in self.open_repositories() {
            self.recover_repository(open, &known).await?;
        }
        self.fail_interrupted().await
    }

    async fn known_jobs(&self) -> Result<BTreeSet<BackupId>> {
        let mut known = BTreeSet::new();
        let mut cursor = crate::store::Cursor::start();
        loop {
            let page = self
                .store()
                .backups(&ListFilter::default(), &cursor, PAGE)
                .await?;
            known.extend(
                page.rows
                    .iter()
                    .filter_map(|r| BackupId::parse(r.id.as_str()).ok()),
            );
            match page.next {
                Some(next) => cursor = next,
                None => return Ok(known),
            }
        }
    }

    async fn recover_repository(
        &self,
        open: &OpenRepository,
        known: &BTreeSet<BackupId>,
    ) -> Result<()> {
        let (row, repository, jobs) = (open.clone(), open.repository.clone(), known.clone());
        let (row, report, vms) = blocking(move || {
            let row = row.row()?;
            let report = repository.recover(&jobs, LOCK_WAIT)?;
            let mut vms = Vec::new();
            for vm in repository.vms()? {
                // A VM that cannot be looked at is in the report.
                if let Ok(points) = repository.points(vm) {
                    vms.push((vm, points));
                }
            }
            Ok((row, report, vms))
        })
        .await?;
        log(open.repository.name(), &report);
        let mut tx = self.store().begin_write().await?;
        tx.upsert_repository(&row).await?;
        tx.commit().await?;
        let mut there = BTreeSet::new();
        let sealed: BTreeSet<String> = self
            .store()
            .sealed_ids(&row.id)
            .await?
            .into_iter()
            .collect();
        for (vm, points) in vms {
            // One VM's trouble does not keep the others from being served.
            if let Err(e) = self.take_in(open, vm, &points, &sealed).await {
                tracing::error!(%vm, "its points could not be taken into the catalog: {e}");
            }
            there.extend(points.all().iter().map(|p| p.id().as_str().to_owned()));
            // A point that cannot be read is damaged, not missing.
            let damaged = points.damaged().iter();
            there.extend(damaged.map(|d| d.backup_id.as_str().to_owned()));
        }
        let failed: BTreeSet<String> = report.failed.iter().map(|(vm, _)| vm.to_string()).collect();
        for id in self.store().sealed_ids(&row.id).await? {
            let Some(job) = self.store().backup(&id).await? else {
                continue;
            };
            let missing = !there.contains(&id) && !failed.contains(&job.vm_id);
            if missing != (job.missing != 0) {
                if missing {
                    tracing::error!(backup = %id, "its files are no longer in the repository");
                }
                let mut tx = self.store().begin_write().await?;
                tx.set_backup_missing(&id, missing).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// Writes down the points that the catalog does not hold as sealed.
    async fn take_in(
        &self,
        open: &OpenRepository,
        vm: VmId,
        points: &VmPoints,
        sealed: &BTreeSet<String>,
    ) -> Result<()> {
        let repository_id = open.repository.id().to_string();
        let mut changed = false;
        for point in points.all() {
            let id = point.id();
            if sealed.contains(id.as_str()) {
                continue;
            }
            tracing::info!(backup = %id, "its manifest is taken into the catalog");
            let (repository, of) = (open.repository.clone(), id.clone());
            let notes = blocking(move || Ok(repository.notes(vm, &of)?)).await?;
            let mut tx = self.store().begin_write().await?;
            catalog::record_point(self.store(), &mut tx, point).await?;
            if let Some(at) = last_verified(&notes) {
                tx.set_backup_verified(id.as_str(), at).await?;
            }
            tx.commit().await?;
            changed = true;
        }
        let vm_id = vm.to_string();
        let chains = self.store().chains(&vm_id).await?;
        let recorded: u64 = chains
            .iter()
            .filter(|c| c.repository_id == repository_id)
            .map(|c| c.total_backups)
            .sum();
        let disks: usize = points.all().iter().map(|p| p.disks.len()).sum();
        if changed || recorded != disks as u64 {
            let mut tx = self.store().begin_write().await?;
            catalog::record_chains(&mut tx, &vm_id, &repository_id, points).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// What was running and has become no point has failed.
    async fn fail_interrupted(&self) -> Result<()> {
        let at = Time::now().micros();
        let message = "the daemon ended in the middle of it";
        let code = Code::Interrupted.as_str();
        for row in self.store().unfinished_backups().await? {
            tracing::warn!(backup = %row.id, "was interrupted");
            let mut tx = self.store().begin_write().await?;
            tx.set_backup_phase(&row.id, "interrupted").await?;
            tx.end_backup(&row.id, "failed", code, message, at).await?;
            tx.commit().await?;
        }
        let mut tx = self.store().begin_write().await?;
        tx.interrupt_tasks(code, message, at).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// When a point was last found whole, as its notes tell; a later damage ends that.
fn last_verified(notes: &StateLog) -> Option<i64> {
    let mut at = None;
    for note in &notes.entries {
        if let StateEvent::Verified { ok, .. } = note.event {
            at = ok.then(|| Time::from(note.at).micros());
        }
    }
    at
}

fn log(repository: &str, report: &RecoveryReport) {
    for found in &report.removed {
        tracing::info!(repository, path = %found.path, bytes = found.bytes, "removed {}", found.note);
    }
    for (vm, id) in &report.deleted {
        tracing::info!(repository, %vm, backup = %id, "its deletion was ended");
    }
    for found in &report.quarantined {
        tracing::warn!(repository, path = %found.path, bytes = found.bytes, "quarantined: {}", found.note);
    }
    for found in &report.left {
        tracing::warn!(repository, path = %found.path, bytes = found.bytes, "left: {}", found.note);
    }
    for (vm, damaged) in &report.damaged {
        tracing::error!(repository, %vm, backup = %damaged.backup_id, "damaged: {}", damaged.why);
    }
    for path in &report.missing {
        tracing::error!(repository, path, "a sealed file is missing");
    }
    for (vm, why) in &report.failed {
        tracing::error!(repository, %vm, "could not be looked at: {why}");
    }
}
