//! Starting a backup: decide, write it down, make the files, open the exports.
//!
//! The job's row is durable before the first file exists, since recovery removes the unfinished
//! files of jobs that the catalog knows, and of no others.

use std::sync::Arc;

use sendense_engine::plane::Source;
use sendense_engine::repository::guard::{Decision, DiskRequest, Head};
use sendense_engine::repository::{
    BackupId, BackupKind, BeginDisk, ExportName, ExportSecret, Growing, Repository, kind_together,
};
use sendense_formats::ClusterSize;
use sendense_nbd::registry::Entry;

use super::ingest;
use super::jobs::Seat;
use super::plan::{Plan, PlanDisk};
use super::pull::Pull;
use super::running::{Disk, Part, Running, Stage};
use super::source::Place;
use crate::auth::{self, Caller};
use crate::service::{Fault, Result, Service, blocking, to_the_end};
use crate::store::{AuditRow, BackupRow, DiskRow, VmDiskRow, WriteTx};
use crate::types::{Backup, Code, StartBackup, Time};

/// Connections to one export at a time.
const MAX_CONNECTIONS: usize = 32;

/// A disk, and the guard's word on it.
#[derive(Debug)]
struct Decided {
    disk: PlanDisk,
    request: DiskRequest,
    decision: Decision,
}

/// A disk that has its file.
struct Begun {
    disk: PlanDisk,
    growing: Growing,
    export: Option<ExportName>,
}

impl Service {
    /// `POST /backup/start`.
    pub async fn start_backup(&self, caller: &Caller, start: StartBackup) -> Result<Backup> {
        let (service, caller) = (self.clone(), caller.clone());
        to_the_end(async move { service.start(&caller, start).await }).await
    }

    async fn start(&self, caller: &Caller, start: StartBackup) -> Result<Backup> {
        let open = self.repository(start.repository.as_deref())?;
        let repository = open.repository.clone();
        let limit = self.config().limits.running_backups;
        let mut seat = self.jobs().reserve(limit)?;
        let allow_full = start.allow_full;
        let mut plan = self.plan(start).await?;
        self.refuse_while_recording(&plan.row.id)?;
        let damaged = self.store().damaged_points(&plan.row.id).await?;
        let decided = decide(&repository, &mut plan, allow_full, damaged).await?;
        let now = Time::now();
        let id = self
            .record_start(caller, &repository, &plan, &decided, now, &mut seat)
            .await?;
        match self.open(&repository, &plan, decided, &id, now).await {
            Ok((running, pulls)) => {
                self.set_running(seat, running, pulls).await?;
                let mut view = self.view_backup(caller, id.as_str()).await?;
                view.vm_created = plan.created;
                Ok(view)
            }
            Err(fault) => {
                self.record_end(&id, "failed", &fault).await;
                Err(fault)
            }
        }
    }

    /// The rows of the job, and of the machine where it is new.
    async fn record_start(
        &self,
        caller: &Caller,
        repository: &Repository,
        plan: &Plan,
        decided: &[Decided],
        now: Time,
        seat: &mut Seat,
    ) -> Result<BackupId> {
        let mut tx = self.store().begin_write().await?;
        if plan.created {
            insert_new_vm(&mut tx, plan).await?;
        }
        let base = BackupId::new(&plan.row.name, now.into(), |_| false)?;
        let taken = self.store().used_backup_ids_with(base.as_str()).await?;
        let id = BackupId::new(&plan.row.name, now.into(), |id| {
            taken.iter().any(|t| t == id.as_str())
        })?;
        seat.name(&id)?;
        let kind = kind_together(decided.iter().map(|d| d.decision.kind));
        let parent = decided.iter().find_map(|d| d.decision.parent.as_ref());
        let place = tx.next_place(&plan.row.id, now.micros()).await?;
        tx.upsert_backup(&BackupRow {
            id: id.as_str().to_owned(),
            vm_id: plan.row.id.clone(),
            vm_name: plan.row.name.clone(),
            repository_id: repository.id().to_string(),
            requested_type: plan.kind.as_str().to_owned(),
            backup_type: kind.as_str().to_owned(),
            reason: reason(decided),
            status: "running".to_owned(),
            phase: Some("waiting".to_owned()),
            parent_backup_id: parent.map(|p| p.link.backup_id.as_str().to_owned()),
            error_code: None,
            error_message: None,
            missing: 0,
            damage: None,
            damage_found_at: None,
            place,
            created_at: now.micros(),
            started_at: Some(now.micros()),
            completed_at: None,
            sealed_at: None,
            verified_at: None,
        })
        .await?;
        for d in decided {
            let row = VmDiskRow {
                vm_id: plan.row.id.clone(),
                disk_id: d.disk.number.get(),
                device_key: d.disk.device_key.as_str().to_owned(),
                size_bytes: d.disk.size,
                source: d.disk.source.clone(),
            };
            tx.insert_vm_disk_if_new(&row, id.as_str()).await?;
            tx.upsert_backup_disk(&disk_row(&id, &d.disk, &d.decision, plan.cluster))
                .await?;
        }
        tx.audit(&AuditRow {
            at: now.micros(),
            actor: caller.name.clone(),
            action: "backup.start".to_owned(),
            object: id.as_str().to_owned(),
            detail: format!("{} asked, {kind} done, of {}", plan.kind, plan.row.name),
        })
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The files and ingests of all disks; given back together where one fails.
    async fn open(
        &self,
        repository: &Repository,
        plan: &Plan,
        decided: Vec<Decided>,
        id: &BackupId,
        now: Time,
    ) -> Result<(Running, Vec<Pull>)> {
        let vm = plan.vm;
        let pulled = decided.iter().all(|d| d.disk.place != Place::Push);
        let begin = |d: &Decided| BeginDisk {
            backup_id: id.clone(),
            request: d.request.clone(),
            vm_name: plan.row.name.clone(),
            context_id: Some(plan.context.clone()),
            started_at: now.into(),
        };
        let begins: Vec<(PlanDisk, BeginDisk)> = decided
            .into_iter()
            .map(|d| {
                let begin = begin(&d);
                (d.disk, begin)
            })
            .collect();
        let (from, context) = (repository.clone(), plan.context.clone());
        let begun = blocking(move || {
            let each = begins.into_iter().map(|(disk, begin)| {
                let growing = from.begin_disk(begin)?;
                let export = match disk.place {
                    Place::Push => Some(ExportName::new(
                        &context,
                        disk.number,
                        growing.decision().kind,
                        now.into(),
                        ExportSecret::generate()?,
                    )),
                    _ => None,
                };
                Ok(Begun {
                    disk,
                    growing,
                    export,
                })
            });
            each.collect::<Result<Vec<_>>>()
        })
        .await?;

        let mut disks = Vec::with_capacity(begun.len());
        let mut pulls = Vec::new();
        let mut rows = Vec::with_capacity(begun.len());
        for b in begun {
            let decision = b.growing.decision();
            let parent = match &decision.parent {
                Some(parent) => {
                    let below = &parent.link.backup_id;
                    Some(self.chain(repository, vm, below, b.disk.number).await?)
                }
                None => None,
            };
            let mut row = disk_row(id, &b.disk, decision, plan.cluster);
            row.export_name = b.export.as_ref().map(|e| e.label().to_owned());
            row.export_secret_hash = b.export.as_ref().map(|e| auth::hash(&e.reveal()));
            rows.push(row);
            let (ingest, total) =
                ingest::create(&b.disk, &b.growing, plan.cluster, parent.clone())?;
            if b.disk.place != Place::Push {
                pulls.push(Pull::new(&b.disk, &b.growing, parent)?);
            }
            disks.push(Disk {
                number: b.disk.number,
                ingest,
                export: b.export,
                growing: Some(b.growing),
                total,
                given_token: b.disk.token,
                part: Part::Open,
                refused: None,
                attempts: 0,
                first_at: None,
            });
        }
        let mut tx = self.store().begin_write().await?;
        for row in &rows {
            tx.upsert_backup_disk(row).await?;
        }
        tx.commit().await?;
        let running = Running::new(id.clone(), vm, repository.clone(), pulled, disks);
        Ok((running, pulls))
    }

    /// From here on movers can write, and pulls run.
    async fn set_running(&self, seat: Seat, running: Running, pulls: Vec<Pull>) -> Result<()> {
        let running = Arc::new(running);
        if let Some((status, fault)) = seat.run(Arc::clone(&running)) {
            self.end_running(&running, status, fault.clone()).await?;
            return Err(fault);
        }
        if let Err(fault) = self.open_exports(&running) {
            self.end_running(&running, "failed", fault.clone()).await?;
            return Err(fault);
        }
        tokio::spawn(self.clone().watch(Arc::clone(&running)));
        for pull in pulls {
            tokio::spawn(self.clone().pull(Arc::clone(&running), pull));
        }
        Ok(())
    }

    fn open_exports(&self, running: &Running) -> Result<()> {
        let state = running.state();
        // Whoever ends it now removes the exports that are there now.
        if !matches!(state.stage, Stage::Open) {
            return Ok(());
        }
        for disk in &state.disks {
            let Some(export) = &disk.export else {
                continue;
            };
            let source: Arc<dyn Source> = disk.ingest.clone();
            let entry = Entry {
                description: format!("{} disk {}", running.id, disk.number),
                listed: false,
                max_connections: Some(MAX_CONNECTIONS),
                ..Entry::new(source)
            };
            self.plane()
                .registry()
                .declare(&export.reveal(), entry)
                .map_err(|e| Fault::internal(format!("an export could not be opened: {e}")))?;
        }
        Ok(())
    }
}

/// The machine of a first start. Looked for once more with the writer's turn: of two starts that
/// bring the same name, one makes the machine.
async fn insert_new_vm(tx: &mut WriteTx, plan: &Plan) -> Result<()> {
    if let Some(id) = tx.vm_named(&plan.row.name).await? {
        return Err(Fault::new(
            Code::Exists,
            format!(
                "another start has just registered {:?} as {id}",
                plan.row.name
            ),
        )
        .hint("start again, and it is a backup of that machine"));
    }
    tx.insert_vm(&plan.row).await?;
    Ok(())
}

/// The guard's word on every disk, before anything is made.
async fn decide(
    repository: &Repository,
    plan: &mut Plan,
    allow_full: bool,
    damaged: Vec<(String, String)>,
) -> Result<Vec<Decided>> {
    let damaged = damaged
        .into_iter()
        .map(|(id, why)| Ok((BackupId::parse(id)?, why)));
    let damaged = damaged.collect::<Result<Vec<_>>>()?;
    let (repository, vm, kind) = (repository.clone(), plan.vm, plan.kind);
    let disks = std::mem::take(&mut plan.disks);
    blocking(move || {
        let each = disks.into_iter().map(|disk| {
            let request = DiskRequest {
                repository: repository.id(),
                vm,
                disk: disk.number,
                device_key: disk.device_key.clone(),
                kind,
                base_token: match &disk.base {
                    Some(base) => Some(base.clone()),
                    None => held_base(&repository, vm, kind, &disk)?,
                },
                allow_full,
                size: disk.size,
                damaged: damaged.clone(),
            };
            let decision = repository.decide(&request);
            let decision =
                decision.map_err(|e| Fault::from(e).member("disk_id", request.disk.get()))?;
            Ok(Decided {
                disk,
                request,
                decision,
            })
        });
        each.collect()
    })
    .await
}

/// The daemon's own knowledge of the base: a pull that compares with the parent is relative to the
/// parent, whatever that is. Nobody else may leave the base out.
fn held_base(
    repository: &Repository,
    vm: sendense_engine::repository::VmId,
    kind: BackupKind,
    disk: &PlanDisk,
) -> Result<Option<sendense_engine::repository::ChangeToken>> {
    if kind == BackupKind::Full || disk.place == Place::Push || disk.changes.is_some() {
        return Ok(None);
    }
    let points = repository.points(vm)?;
    let Head::At(head) = points.head(disk.number) else {
        return Ok(None);
    };
    Ok(match kind {
        // A chain that is broken is the guard's to refuse, or to answer with a full.
        BackupKind::Differential => points.full_of(head).ok().map(|full| full.token.clone()),
        _ => Some(head.token.clone()),
    })
}

/// One reason where all disks share it, else one per disk.
fn reason(decided: &[Decided]) -> String {
    let all: Vec<String> = decided
        .iter()
        .map(|d| d.decision.reason.to_string())
        .collect();
    match all.as_slice() {
        [first, rest @ ..] if rest.iter().all(|r| r == first) => first.clone(),
        _ => {
            let each = decided.iter().zip(&all);
            let each = each.map(|(d, why)| format!("disk {}: {why}", d.disk.number));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

fn disk_row(id: &BackupId, disk: &PlanDisk, decision: &Decision, cluster: ClusterSize) -> DiskRow {
    let parent = decision.parent.as_ref();
    DiskRow {
        backup_id: id.as_str().to_owned(),
        disk_id: disk.number.get(),
        device_key: disk.device_key.as_str().to_owned(),
        backup_type: decision.kind.as_str().to_owned(),
        source: disk.source.clone(),
        parent_backup_id: parent.map(|p| p.link.backup_id.as_str().to_owned()),
        sequence: None,
        size_bytes: disk.size,
        cluster_size: cluster.bytes(),
        base_change_id: parent.map(|p| p.token.as_str().to_owned()),
        // Written by the transaction that writes the point, and by nothing before it.
        change_id: None,
        bytes_transferred: 0,
        stored_bytes: 0,
        zero_bytes: 0,
        covered_bytes: 0,
        checksum: None,
        locator: None,
        export_name: None,
        export_secret_hash: None,
        sealed_at: None,
        verified_at: None,
    }
}
