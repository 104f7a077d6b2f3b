//! `sendense-ctl job`.

use std::time::Duration;

use super::progress::Bars;
use super::{CliError, Context, Result, args, output};
use crate::types::{Job, JobStatus};

pub(super) fn run(c: &Context, verb: args::Job) -> Result<()> {
    match verb {
        args::Job::List { limit } => list(c, limit),
        args::Job::Show { job_id } => output::show(c, &c.client.job(&job_id)?, output::job),
        args::Job::Watch { job_id } => {
            let job = watch(c, &job_id)?;
            output::show(c, &job, output::job)?;
            ended(&job)
        }
        args::Job::Cancel { job_id } => {
            output::show(c, &c.client.cancel_job(&job_id)?, output::job)
        }
    }
}

fn list(c: &Context, limit: u32) -> Result<()> {
    let mut all = c.client.jobs(None, Some(limit.clamp(1, PAGE)))?;
    while let Some(cursor) = all.next_cursor.clone() {
        let left = limit.saturating_sub(u32::try_from(all.jobs.len()).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
        let page = c.client.jobs(Some(&cursor), Some(left.min(PAGE)))?;
        all.jobs.extend(page.jobs);
        all.next_cursor = page.next_cursor;
    }
    output::show(c, &all, output::jobs)
}

/// Rows of one page.
pub(super) const PAGE: u32 = 500;

/// Follows a job until it has ended.
pub(super) fn watch(c: &Context, id: &str) -> Result<Job> {
    let bars = Bars::new(c);
    let mut bar = None;
    loop {
        let job = c.client.job(id)?;
        let total: u64 = job.disks.iter().map(|d| d.total_bytes).sum();
        let done: u64 = job.disks.iter().map(|d| d.covered_bytes).sum();
        bar.get_or_insert_with(|| bars.add(job.kind.as_str(), total).0)
            .set(done, total);
        if job.status.is_final() {
            return Ok(job);
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// The exit of a command whose job has ended.
pub(super) fn ended(job: &Job) -> Result<()> {
    if job.status == JobStatus::Completed {
        Ok(())
    } else {
        Err(CliError::ended(
            job.status,
            job.error_code.as_deref(),
            job.error_message.as_deref(),
        ))
    }
}
