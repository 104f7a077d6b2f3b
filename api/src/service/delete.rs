//! Deleting restore points, and the rows of jobs that left nothing.

use sendense_engine::repository::{BackupId, DeletePoint, Deletion as Done, VmId};

use super::{Fault, Result, Service, blocking, catalog, to_the_end};
use crate::auth::Caller;
use crate::store::{AuditRow, BackupRow};
use crate::types::{Code, Deletion, DeletionItem, Time};

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
        let (deleting, points) = (repository.clone(), repository.clone());
        let done = blocking(move || Ok(deleting.delete(&request)?)).await?;
        if !dry_run {
            let points = blocking(move || Ok(points.points(vm)?)).await?;
            let mut tx = self.store().begin_write().await?;
            tx.clear_chains(&row.vm_id, &row.repository_id).await?;
            for point in &done.points {
                tx.delete_backup(point.backup_id.as_str()).await?;
            }
            let repository_id = repository.id().to_string();
            catalog::record_chains(&mut tx, &row.vm_id, &repository_id, &points).await?;
            tx.audit(&AuditRow {
                at: Time::now().micros(),
                actor: caller.name.clone(),
                action: "backup.delete".to_owned(),
                object: row.id.clone(),
                detail: format!("{} points, {} bytes", done.points.len(), done.bytes),
            })
            .await?;
            tx.commit().await?;
        }
        Ok(view(&done))
    }

    /// A job without files: failed, cancelled, or reported missing.
    async fn delete_row(&self, caller: &Caller, row: BackupRow, dry_run: bool) -> Result<Deletion> {
        if !dry_run {
            let repository = self
                .repository(Some(&row.repository_id))?
                .repository
                .clone();
            let vm = VmId::parse(&row.vm_id)?;
            let points = blocking(move || Ok(repository.points(vm)?)).await?;
            let mut tx = self.store().begin_write().await?;
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
            deleted: vec![DeletionItem {
                backup_id: row.id,
                bytes: 0,
            }],
            freed_bytes: 0,
            warnings: Vec::new(),
        })
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
