//! Ending a backup without a restore point: cancelled, failed, or given up.

use std::sync::Arc;
use std::time::Duration;

use sendense_engine::repository::BackupId;
use sendense_nbd::registry::Removal;

use super::jobs::Found;
use super::running::{Running, Stage};
use crate::auth::Caller;
use crate::service::{Fault, Result, Service, blocking, to_the_end};
use crate::store::AuditRow;
use crate::types::{Backup, Code, JobStatus, Time};

/// How long operations in flight are awaited before their file goes.
const DRAIN: Duration = Duration::from_secs(30);

/// How often the end of a job is tried to be written down.
const TRIES: u32 = 50;

impl Service {
    /// `POST /backup/{id}/cancel`. Cancelling what was cancelled is fine.
    pub async fn cancel_backup(&self, caller: &Caller, id: &str) -> Result<Backup> {
        let id = self.resolve_backup(id, None).await?;
        let fault = Fault::new(Code::Cancelled, format!("{} cancelled it", caller.name));
        match self.jobs().find_or_end(&id, ("cancelled", fault.clone())) {
            Found::Running(running) => self.end_running(&running, "cancelled", fault).await?,
            Found::Starting => {
                self.jobs().started(&id).await;
                // The start itself ends it: nothing of it was given to anybody yet.
                if let Some(running) = self.running_job(&id) {
                    running.ended().await;
                }
                self.cancelled(caller, &id).await?;
            }
            Found::None if self.end_doubted(&id, &fault).await? => {}
            Found::None => return self.cancelled(caller, &id).await,
        }
        let mut tx = self.store().begin_write().await?;
        tx.audit(&AuditRow {
            at: Time::now().micros(),
            actor: caller.name.clone(),
            action: "backup.cancel".to_owned(),
            object: id.clone(),
            detail: String::new(),
        })
        .await?;
        tx.commit().await?;
        self.view_backup(caller, &id).await
    }

    /// Ends a job of an earlier daemon of which no start could find out whether it became a point,
    /// so that a repository that never comes back does not keep it running for ever. Where a start
    /// finds its manifest after all, it takes the point in.
    async fn end_doubted(&self, id: &str, fault: &Fault) -> Result<bool> {
        let row = self.store().backup(id).await?;
        let doubt = Some(Code::InDoubt.as_str());
        let doubted = row.is_some_and(|r| {
            r.status == JobStatus::Running.as_str() && r.error_code.as_deref() == doubt
        });
        if doubted {
            self.record_end(&BackupId::parse(id)?, "cancelled", fault)
                .await;
        }
        Ok(doubted)
    }

    /// A job that has ended because somebody asked for that; any other end is a refusal.
    async fn cancelled(&self, caller: &Caller, id: &str) -> Result<Backup> {
        let view = self.view_backup(caller, id).await?;
        if view.status == JobStatus::Cancelled {
            return Ok(view);
        }
        Err(Fault::new(
            Code::WrongState,
            format!("{id} is {}: there is nothing to cancel", view.status),
        ))
    }

    /// Ends a job that cannot go on. Where it ends already, that is left to whoever ends it.
    pub(super) async fn fail(&self, running: &Arc<Running>, fault: Fault) {
        tracing::warn!(backup = %running.id, code = %fault.code, "failed: {fault}");
        if let Err(e) = self.end_running(running, "failed", fault).await {
            tracing::debug!(backup = %running.id, "was not ended: {e}");
        }
    }

    /// Cuts the movers, gives files and locks back, writes down why.
    pub(super) async fn end_running(
        &self,
        running: &Arc<Running>,
        status: &'static str,
        fault: Fault,
    ) -> Result<()> {
        let leaving = running.begin_end()?;
        let (service, running) = (self.clone(), Arc::clone(running));
        to_the_end(async move {
            // All are cut before any is waited for, and the wait is one for all of them.
            for disk in &leaving {
                if let Some(name) = &disk.export {
                    // An export that was never opened is no trouble.
                    let _ = service.plane().registry().remove(name, Removal::Hard);
                }
                disk.ingest.abort();
            }
            let deadline = tokio::time::Instant::now() + DRAIN;
            let mut growing = Vec::new();
            for disk in leaving {
                let drained = tokio::time::timeout_at(deadline, disk.ingest.drained());
                if drained.await.is_err() {
                    tracing::warn!(backup = %running.id, "operations were still in flight at its end");
                }
                growing.extend(disk.growing);
            }
            let removed = blocking(move || {
                for disk in growing {
                    disk.abort()?;
                }
                Ok(())
            });
            if let Err(e) = removed.await {
                // The next start's recovery removes it.
                tracing::warn!(backup = %running.id, "an unfinished file stays: {e}");
            }
            service.record_end(&running.id, status, &fault).await;
            service.jobs().remove(running.id.as_str());
            running.enter(Stage::Ended(Some(fault)));
            Ok(())
        })
        .await
    }

    /// Writes down how a job ended. A catalog beside a repository that has just been full gets its
    /// space back a moment after the unfinished file has gone, so it is tried for some seconds;
    /// where it fails for good, the next start says "interrupted".
    pub(super) async fn record_end(&self, id: &BackupId, status: &str, fault: &Fault) {
        let at = Time::now().micros();
        for attempt in 1..=TRIES {
            let write = async {
                let mut tx = self.store().begin_write().await?;
                tx.end_backup(id.as_str(), status, fault.code.as_str(), &fault.detail, at)
                    .await?;
                tx.commit().await
            };
            match write.await {
                Ok(()) => return,
                Err(e) if attempt == TRIES => {
                    tracing::error!(backup = %id, "its end is not written down: {e}");
                }
                Err(e) => tracing::debug!(backup = %id, attempt, "not written down yet: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends every job that runs, at a shutdown.
    pub async fn end_all(&self) {
        let fault = Fault::new(Code::Interrupted, "the daemon was stopped");
        self.jobs().stop(&fault).await;
        // At once: each may have to wait for what its movers have in flight.
        let mut ends = tokio::task::JoinSet::new();
        for running in self.jobs().all() {
            let (service, fault) = (self.clone(), fault.clone());
            ends.spawn(async move { service.fail(&running, fault).await });
        }
        while ends.join_next().await.is_some() {}
    }
}
