//! `sendense-ctl job`.

use std::time::Duration;

use super::progress::Bars;
use super::{CliError, Context, Result, args, output};
use crate::types::{Job, JobStatus};

pub(super) fn run(c: &Context, verb: args::Job) -> Result<()> {
    match verb {
        args::Job::List { limit } => output::jobs(c, &c.client.jobs(None, Some(limit))?),
        args::Job::Show { job_id } => output::job(c, &c.client.job(&job_id)?),
        args::Job::Watch { job_id } => {
            let job = watch(c, &job_id)?;
            output::job(c, &job)?;
            ended(&job)
        }
        args::Job::Cancel { job_id } => output::job(c, &c.client.cancel_job(&job_id)?),
    }
}

/// Follows a job until it has ended.
pub(super) fn watch(c: &Context, id: &str) -> Result<Job> {
    let bars = Bars::new(c);
    let mut bar = None;
    loop {
        let job = c.client.job(id)?;
        let total: u64 = job.disks.iter().map(|d| d.total_bytes).sum();
        let done: u64 = job.disks.iter().map(|d| d.covered_bytes).sum();
        let bar = bar.get_or_insert_with(|| bars.add(job.kind.as_str(), total).0);
        if let Some(bar) = bar {
            bar.set_length(total);
            bar.set_position(done.min(total));
        }
        if job.status.is_final() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
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
        Err(CliError::job(job))
    }
}
