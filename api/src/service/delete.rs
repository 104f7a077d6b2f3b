//! Deleting restore points, and the rows of jobs that left nothing.

use std::time::Duration;

use sendense_engine::repository::{BackupId, DeletePoint, Deletion as Done, Repository, VmId};

use super::{Fault, Result, Service, blocking, catalog, to_the_end};
use crate::auth::Caller;
use crate::store::{AuditRow, BackupRow};
use crate::types::{Code, Deletion, DeletionItem, Time};

/// How often the catalog is tried after files are gone, and how long between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

impl Service {
    /// `DELETE /backup/{id}`.
    pub async fn delete_backup(
        &self,
        caller: &Caller,
        id: &str,
        with_dependents: bool,
        dry_run: bool,
    ) -> Result<Deletion> {
        let id = self.resolve_backup(id, None).await?;
        let row = self.store().backup(&id).await?;
        let row =
            row.ok_or_else(|| Fault::new(Code::BackupNotFound, format!("there is no {id}")))?;
        self.refuse_while_recording(&row.vm_id)?;
        if self.running_job(&id).is_some() {
            return Err(Fault::new(Code::WrongState, format!("{id} is running"))
                .hint("cancel it with `sendense-ctl backup cancel`"));
        }
        let (service, caller) = (self.clone(), caller.clone());
        to_the_end(async move {
            if row.status == "completed" && row.missing == 0 {
                service
                    .delete_point(&caller, row, with_dependents, dry_run)
                    .await
            } else {
                service.delete_row(&caller, row, dry_run).await
            }
        })
        .await
    }

    async fn delete_point(
        &self,
        caller: &Caller,
        row: BackupRow,
        with_dependents: bool,
        dry_run: bool,
    ) -> Result<Deletion> {
        let repository = self
            .repository(Some(&row.repository_id))?
            .repository
            .clone();
        let vm = VmId::parse(&row.vm_id)?;
        let request = DeletePoint {
            vm,
            backup_id: BackupId::parse(row.id.as_str())?,
            with_dependents,
            dry_run,
        };
        self.refuse_while_exported(&row.id)?;
        let deleting = repository.clone();
        let done = blocking(move || Ok(deleting.delete(&request)?)).await;
        if dry_run {
            return Ok(view(&done?));
        }
        // Files may be gone after a failure, too: the catalog follows what the manifests say now.
        let forgotten = self.forget(caller, &row, &repository, vm).await?;
        match done {
            Ok(done) => Ok(view(&done)),
            Err(e) if e.code == Code::NotFound && forgotten => Ok(gone(row.id)),
            Err(e) => Err(e),
        }
    }

    /// Takes the rows of points whose manifests are gone out of the catalog. The files are gone
    /// already, so a catalog that is busy or full is tried again for some seconds.
    async fn forget(
        &self,
        caller: &Caller,
        row: &BackupRow,
        repository: &Repository,
        vm: VmId,
    ) -> Result<bool> {
        for _ in 1..TRIES {
            match self.forget_once(caller, row, repository, vm).await {
                Err(e) => tracing::warn!(backup = %row.id, "the catalog does not follow yet: {e}"),
                done => return done,
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.forget_once(caller, row, repository, vm).await
    }

    async fn forget_once(
        &self,
        caller: &Caller,
        row: &BackupRow,
        repository: &Repository,
        vm: VmId,
    ) -> Result<bool> {
        let mut tx = self.store().begin_write().await?;
        // Read with the writer's turn, so that a seal of this machine cannot come in between.
        let reading = repository.clone();
        let points = blocking(move || Ok(reading.points(vm)?)).await?;
        let is_gone = |id: &BackupId| {
            points
                .get(id)
                .is_err_and(|e| e.kind == sendense_engine::ErrorKind::NotFound)
        };
        // All of the machine's, whatever was asked for: a deletion that failed half way has taken
        // some. Newest first, so that a row goes before the one that it builds on.
        let repository_id = repository.id().to_string();
        let known = tx.sealed_of(&row.vm_id, &repository_id, false).await?;
        let mut gone = Vec::new();
        for (id, _) in known {
            let id = BackupId::parse(id)?;
            if is_gone(&id) {
                gone.push(id);
            }
        }
        if gone.is_empty() {
            return Ok(false);
        }
        tx.clear_chains(&row.vm_id, &row.repository_id).await?;
        // Damaged ones come in no order that their rows could go in, and a row whose own files are
        // missing must not keep the row of a parent that was deleted.
        for id in &gone {
            tx.let_go_of_children(id.as_str()).await?;
        }
        for id in &gone {
            tx.delete_backup(id.as_str()).await?;
            tx.audit(&AuditRow {
                at: Time::now().micros(),
                actor: caller.name.clone(),
                action: "backup.delete".to_owned(),
                object: id.as_str().to_owned(),
                detail: format!("asked for: {}", row.id),
            })
            .await?;
        }
        catalog::record_chains(&mut tx, &row.vm_id, &repository_id, &points).await?;
        tx.commit().await?;
        Ok(gone.iter().any(|id| id.as_str() == row.id))
    }

    /// A job without files: failed, cancelled, or reported missing.
    async fn delete_row(&self, caller: &Caller, row: BackupRow, dry_run: bool) -> Result<Deletion> {
        if ["pending", "running"].contains(&row.status.as_str()) {
            return Err(
                Fault::new(Code::WrongState, format!("{} is {}", row.id, row.status))
                    .hint("cancel it with `sendense-ctl backup cancel`"),
            );
        }
        if !dry_run {
            let repository = self
                .repository(Some(&row.repository_id))?
                .repository
                .clone();
            let vm = VmId::parse(&row.vm_id)?;
            if row.status != "completed" {
                remove_unfinished(&repository, vm, &row.id).await?;
            }
            let mut tx = self.store().begin_write().await?;
            // Read with the writer's turn, so that a seal of this machine cannot come in between.
            let points = blocking(move || Ok(repository.points(vm)?)).await?;
            tx.clear_chains(&row.vm_id, &row.repository_id).await?;
            if let Err(e) = tx.delete_backup(&row.id).await {
                if e.is_constraint() {
                    return Err(Fault::new(
                        Code::HasDependents,
                        format!("other restore points are recorded as built on {}", row.id),
                    ));
                }
                return Err(e.into());
            }
            catalog::record_chains(&mut tx, &row.vm_id, &row.repository_id, &points).await?;
            tx.audit(&AuditRow {
                at: Time::now().micros(),
                actor: caller.name.clone(),
                action: "backup.forget".to_owned(),
                object: row.id.clone(),
                detail: row.status.clone(),
            })
            .await?;
            tx.commit().await?;
        }
        Ok(Deletion {
            dry_run,
            ..gone(row.id)
        })
    }
}

/// Recovery removes the files of jobs that the catalog knows, so they go before the row does.
async fn remove_unfinished(repository: &Repository, vm: VmId, id: &str) -> Result<()> {
    let (repository, job) = (repository.clone(), BackupId::parse(id)?);
    let left = blocking(move || Ok(repository.remove_unfinished(vm, &job)?)).await?;
    match left.first() {
        None => Ok(()),
        Some(found) => Err(Fault::new(
            Code::Busy,
            format!("{} of {id} cannot be removed: {}", found.path, found.note),
        )
        .hint("end what has it open, then delete again")),
    }
}

/// What is said of a point of which only the row was left.
fn gone(backup_id: String) -> Deletion {
    Deletion {
        dry_run: false,
        deleted: vec![DeletionItem {
            backup_id,
            bytes: 0,
        }],
        freed_bytes: 0,
        warnings: Vec::new(),
    }
}

fn view(done: &Done) -> Deletion {
    let warnings = done.heads.iter().map(|head| match &head.to {
        Some((id, token)) => format!(
            "disk {}: the newest point becomes {id}, at {token}; a mover that has gone on since \
             will be refused, or has to send a full",
            head.disk
        ),
        None => format!(
            "disk {}: nothing is left, the next backup is a full",
            head.disk
        ),
    });
    Deletion {
        dry_run: done.dry_run,
        deleted: done
            .points
            .iter()
            .map(|p| DeletionItem {
                backup_id: p.backup_id.as_str().to_owned(),
                bytes: p.bytes,
            })
            .collect(),
        freed_bytes: done.bytes,
        warnings: warnings.collect(),
    }
}
