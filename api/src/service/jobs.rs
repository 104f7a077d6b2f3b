//! Jobs: backups, and the tasks that restore and verify.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use sendense_engine::transfer::Progress;

use super::{Fault, Result, Service, lock};
use crate::auth::Caller;
use crate::store::{Cursor, ListFilter, TaskRow};
use crate::types::{Code, Job, JobDisk, JobKind, JobList, JobStatus, Time};

/// How often the end of a task is tried to be written down, and how long between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// The tasks that run now, by id.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    running: Mutex<HashMap<String, Progress>>,
}

impl Service {
    /// `GET /jobs`: backups and tasks together, newest first.
    pub async fn list_jobs(
        &self,
        caller: &Caller,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<JobList> {
        let after = cursor.map_or_else(|| Ok(Cursor::start()), Cursor::parse)?;
        let backups = self
            .store()
            .backups(&ListFilter::default(), &after, limit)
            .await?;
        let tasks = self.store().tasks(&after, limit).await?;
        let more = backups.next.is_some() || tasks.next.is_some();
        let mut jobs = Vec::new();
        for row in backups.rows {
            let place = row.place;
            let view = self.view_row(caller, row).await?;
            jobs.push((place, self.backup_job(&view)));
        }
        for row in tasks.rows {
            jobs.push((row.created_at, self.task_job(row)?));
        }
        jobs.sort_by(|(a, x), (b, y)| (b, &y.job_id).cmp(&(a, &x.job_id)));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = more || jobs.len() > limit;
        jobs.truncate(limit);
        let next_cursor = jobs.last().filter(|_| more).map(|(place, job)| {
            Cursor {
                place: *place,
                id: job.job_id.clone(),
            }
            .encode()
        });
        Ok(JobList {
            jobs: jobs.into_iter().map(|(_, job)| job).collect(),
            next_cursor,
        })
    }

    /// `GET /jobs/{id}`.
    pub async fn show_job(&self, caller: &Caller, id: &str) -> Result<Job> {
        if let Some(row) = self.store().task(id).await? {
            return self.task_job(row);
        }
        let id = self.resolve_backup(id, None).await?;
        let view = self.view_backup(caller, &id).await?;
        Ok(self.backup_job(&view))
    }

    /// `POST /jobs/{id}/cancel`.
    pub async fn cancel_job(&self, caller: &Caller, id: &str) -> Result<Job> {
        let Some(row) = self.store().task(id).await? else {
            let view = self.cancel_backup(caller, id).await?;
            return Ok(self.backup_job(&view));
        };
        let progress = lock(&self.inner.tasks.running).get(id).cloned();
        match progress {
            Some(progress) => progress.cancel(),
            None if row.status == "cancelled" => {}
            None => {
                return Err(Fault::new(
                    Code::WrongState,
                    format!("{id} is {}: there is nothing to cancel", row.status),
                ));
            }
        }
        self.show_job(caller, id).await
    }

    /// Writes a task down and runs it; answers at once. For callers that run to their end: a row
    /// without its work would stay "running".
    pub(super) async fn start_task<W>(
        &self,
        row: TaskRow,
        work: impl FnOnce(Service, Progress) -> W + Send + 'static,
    ) -> Result<Job>
    where
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let mut tx = self.store().begin_write().await?;
        tx.upsert_task(&row).await?;
        tx.commit().await?;
        let progress = Progress::new();
        lock(&self.inner.tasks.running).insert(row.id.clone(), progress.clone());
        let job = self.task_job(row.clone())?;
        let service = self.clone();
        tokio::spawn(async move {
            let done = super::to_the_end(work(service.clone(), progress.clone())).await;
            service.end_task(row, &progress, done).await;
        });
        Ok(job)
    }

    async fn end_task(&self, mut row: TaskRow, progress: &Progress, done: Result<()>) {
        let counted = progress.snapshot();
        row.total_bytes = counted.total;
        row.bytes_transferred = counted.done;
        row.completed_at = Some(Time::now().micros());
        row.phase = None;
        let status = match done {
            Ok(()) => JobStatus::Completed,
            Err(fault) => {
                let cancelled = progress.is_cancelled();
                tracing::warn!(task = %row.id, "ended: {fault}");
                let code = if cancelled {
                    Code::Cancelled
                } else {
                    fault.code
                };
                row.error_code = Some(code.as_str().to_owned());
                row.error_message = Some(fault.detail);
                if cancelled {
                    JobStatus::Cancelled
                } else {
                    JobStatus::Failed
                }
            }
        };
        status.as_str().clone_into(&mut row.status);
        for attempt in 1..=TRIES {
            let write = async {
                let mut tx = self.store().begin_write().await?;
                tx.upsert_task(&row).await?;
                tx.commit().await
            };
            match write.await {
                Ok(()) => break,
                // The next start says "interrupted".
                Err(e) if attempt == TRIES || self.store().is_closed() => {
                    tracing::error!(task = %row.id, "its end is not written down: {e}");
                    break;
                }
                Err(e) => {
                    tracing::debug!(task = %row.id, attempt, "its end is not written down: {e}");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        lock(&self.inner.tasks.running).remove(&row.id);
    }

    fn task_job(&self, row: TaskRow) -> Result<Job> {
        let live = lock(&self.inner.tasks.running)
            .get(&row.id)
            .map(Progress::snapshot);
        let (total, done) = match live {
            Some(s) => (s.total.max(row.total_bytes), s.done),
            None => (row.total_bytes, row.bytes_transferred),
        };
        let time = |t: Option<i64>| t.map(Time::from_micros);
        let ended = time(row.completed_at).unwrap_or_else(Time::now);
        let seconds = time(row.started_at).map_or(0.0, |t| ended.seconds_since(t));
        let rate_bps = super::backup::rate(done, seconds);
        let disk = JobDisk {
            disk_id: row.disk_id.map_or(0, |d| u32::try_from(d).unwrap_or(0)),
            total_bytes: total,
            bytes_transferred: done,
            stored_bytes: live.map_or(0, |s| s.written),
            zero_bytes: live.map_or(0, |s| s.zero),
            covered_bytes: done,
            rate_bps,
            eta_seconds: live.and_then(|_| total.saturating_sub(done).checked_div(rate_bps)),
        };
        Ok(Job {
            kind: match row.kind.as_str() {
                "verify" => JobKind::Verify,
                _ => JobKind::Restore,
            },
            status: super::backup::parse(&row.status)?,
            phase: row.phase.as_deref().map(super::backup::parse).transpose()?,
            backup_id: row.backup_id,
            vm_name: row.vm_name,
            target: row.target,
            created_at: Time::from_micros(row.created_at),
            started_at: time(row.started_at),
            completed_at: time(row.completed_at),
            error_code: row.error_code,
            error_message: row.error_message,
            disks: vec![disk],
            job_id: row.id,
        })
    }
}
