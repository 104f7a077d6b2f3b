//! What a start does before any listener opens: the repositories end what was left half done, and
//! the catalog follows them.
//!
//! - A job that had not ended has either become a point (its manifest is there) or has failed;
//!   where its machine cannot be looked at, it is in doubt.
//! - A manifest without a row is taken in; a row without its manifest is reported as missing.
//! - Nothing is deleted here but what the repository's own recovery deletes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sendense_engine::repository::{
    BackupId, LOCK_WAIT, Part, RecoveryReport, StateEvent, StateLog, VmId, VmPoints, disk_dir,
};

use super::{OpenRepository, Result, Service, blocking, catalog};
use crate::store::{BackupRow, ListFilter};
use crate::types::{Code, Time};

/// What is said of a job whose machine could not be looked at.
const UNCLEAR: &str = "the daemon ended in the middle of it, and its machine's restore points could \
                       not be looked at: whether it has become one is not known";

/// A repository's id and a machine's.
type Unclear = (String, String);

/// The most jobs that one look asks the catalog for.
const PAGE: u32 = 500;

impl Service {
    /// Brings repositories and catalog together.
    pub async fn recover(&self) -> Result<()> {
        let known = self.known_jobs().await?;
        let mut unclear = BTreeSet::new();
        for open in self.open_repositories() {
            unclear.extend(self.recover_repository(open, &known).await?);
        }
        self.end_interrupted(&unclear).await
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

    /// Answers the repository's machines of which not all points are known now.
    async fn recover_repository(
        &self,
        open: &OpenRepository,
        known: &BTreeSet<BackupId>,
    ) -> Result<BTreeSet<Unclear>> {
        let (row, repository, jobs) = (open.clone(), open.repository.clone(), known.clone());
        let (row, report, vms) = blocking(move || {
            let row = row.row()?;
            let mut report = repository.recover(&jobs, LOCK_WAIT)?;
            let mut vms = Vec::new();
            for vm in repository.vms()? {
                match repository.points(vm) {
                    Ok(points) => vms.push((vm, points)),
                    Err(e) => report.failed.push((vm, e.to_string())),
                }
            }
            Ok((row, report, vms))
        })
        .await?;
        log(open.repository.name(), &report);
        let mut tx = self.store().begin_write().await?;
        tx.upsert_repository(&row).await?;
        tx.commit().await?;
        let failed = report.failed.iter().map(|(vm, _)| vm.to_string());
        let mut unclear: BTreeSet<String> = failed.collect();
        let mut there = BTreeSet::new();
        let sealed: BTreeSet<String> = self
            .store()
            .sealed_ids(&row.id)
            .await?
            .into_iter()
            .collect();
        for (vm, points) in &vms {
            // One VM's trouble does not keep the others from being served.
            if let Err(e) = self.take_in(open, *vm, points, &sealed).await {
                tracing::error!(%vm, "its points could not be taken into the catalog: {e}");
                unclear.insert(vm.to_string());
            }
            there.extend(points.all().iter().map(|p| p.id().as_str().to_owned()));
            // A point that cannot be read is damaged, not missing.
            let damaged = points.damaged().iter();
            there.extend(damaged.map(|d| d.backup_id.as_str().to_owned()));
        }
        let damage = damage(&report, &vms);
        for id in self.store().sealed_ids(&row.id).await? {
            let Some(job) = self.store().backup(&id).await? else {
                continue;
            };
            if unclear.contains(&job.vm_id) {
                continue;
            }
            let missing = !there.contains(&id);
            if missing != (job.missing != 0) {
                if missing {
                    tracing::error!(backup = %id, "its files are no longer in the repository");
                }
                let mut tx = self.store().begin_write().await?;
                tx.set_backup_missing(&id, missing).await?;
                tx.commit().await?;
            }
            if !missing {
                self.follow_damage(open, &job, damage.get(&id)).await?;
            }
        }
        let unclear = unclear.into_iter().map(|vm| (row.id.clone(), vm));
        Ok(unclear.collect())
    }

    /// The row says what is wrong with the files: what this start has found, else what the last
    /// verification found. A note may be lost, so what a verification put on the row is taken back
    /// by a newer verdict alone.
    async fn follow_damage(
        &self,
        open: &OpenRepository,
        job: &BackupRow,
        found: Option<&String>,
    ) -> Result<()> {
        let kept = (job.damage.clone(), job.damage_found_at);
        let (damage, found_at) = match (found, &job.damage) {
            (Some(why), _) => (Some(why.clone()), job.damage_found_at),
            (None, None) => kept.clone(),
            (None, Some(_)) => {
                let repository = open.repository.clone();
                let (vm, id) = (VmId::parse(&job.vm_id)?, BackupId::parse(job.id.as_str())?);
                let notes = blocking(move || Ok(repository.notes(vm, &id)?)).await?;
                match (verdict(&notes), job.damage_found_at) {
                    (Some((at, Err(why))), _) => (Some(why), Some(at)),
                    (Some((at, Ok(()))), Some(found_at)) if at <= found_at => kept.clone(),
                    (None, Some(_)) => kept.clone(),
                    (Some((_, Ok(()))), _) | (None, None) => (None, None),
                }
            }
        };
        if damage != job.damage {
            let mut tx = self.store().begin_write().await?;
            tx.set_backup_damage(&job.id, damage.as_deref(), found_at)
                .await?;
            tx.commit().await?;
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
            match verdict(&notes) {
                Some((at, Ok(()))) => tx.set_backup_verified(id.as_str(), at).await?,
                Some((at, Err(why))) => {
                    tx.set_backup_damage(id.as_str(), Some(&why), Some(at))
                        .await?;
                }
                None => {}
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
        let mut tx = self.store().begin_write().await?;
        catalog::record_order(&mut tx, &vm_id, &repository_id, points).await?;
        if changed || recorded != disks as u64 {
            catalog::record_chains(&mut tx, &vm_id, &repository_id, points).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What was running and has become no point has failed. Where nobody could look whether it has
    /// become one, it stays as it is, and the next start looks again.
    async fn end_interrupted(&self, unclear: &BTreeSet<Unclear>) -> Result<()> {
        let at = Time::now().micros();
        let message = "the daemon ended in the middle of it";
        let code = Code::Interrupted.as_str();
        for row in self.store().unfinished_backups().await? {
            let mut tx = self.store().begin_write().await?;
            let place = (row.repository_id, row.vm_id);
            if unclear.contains(&place) || self.repository(Some(&place.0)).is_err() {
                tracing::error!(backup = %row.id, "{UNCLEAR}");
                let code = Code::InDoubt.as_str();
                tx.doubt_backup(&row.id, code, UNCLEAR).await?;
                tx.commit().await?;
                continue;
            }
            tracing::warn!(backup = %row.id, "was interrupted");
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

/// What the last verification said, as the notes tell: when, and what was wrong if anything was.
fn verdict(notes: &StateLog) -> Option<(i64, Result<(), String>)> {
    let verdicts = notes.entries.iter().rev();
    let mut verdicts = verdicts.filter_map(|note| {
        let said = match &note.event {
            StateEvent::Verified { ok: true, .. } => Ok(()),
            StateEvent::Verified { detail, .. } => Err(detail.clone()),
            _ => return None,
        };
        Some((Time::from(note.at).micros(), said))
    });
    verdicts.next()
}

/// What is wrong with which restore point: manifests that cannot be read, files that are gone.
fn damage(report: &RecoveryReport, vms: &[(VmId, Arc<VmPoints>)]) -> BTreeMap<String, String> {
    let mut damage = BTreeMap::new();
    for damaged in vms.iter().flat_map(|(_, points)| points.damaged()) {
        damage.insert(damaged.backup_id.to_string(), damaged.why.clone());
    }
    if report.missing.is_empty() {
        return damage;
    }
    let missing: BTreeSet<&str> = report.missing.iter().map(String::as_str).collect();
    let points = vms.iter().flat_map(|(_, points)| points.all());
    for record in points.flat_map(|point| &point.disks) {
        let dir = disk_dir(record.vm_id, record.disk);
        let stem = record.stem();
        let files = Part::ALL.iter().filter_map(|part| {
            let path = format!("{dir}/{}", stem.as_ref()?.file(*part));
            missing.contains(path.as_str()).then_some(path)
        });
        let gone: Vec<String> = files.collect();
        if !gone.is_empty() {
            let why = format!("{} is missing", gone.join(", "));
            damage.insert(record.backup_id.to_string(), why);
        }
    }
    damage
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
