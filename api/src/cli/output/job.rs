//! Jobs for people.

use super::{bytes, table};
use crate::types::{Job, JobList, JobStatus};

pub(in crate::cli) fn jobs(list: &JobList) -> String {
    if list.jobs.is_empty() {
        return "no jobs".to_owned();
    }
    let mut t = table(&["job", "kind", "vm", "state", "done", "created"]);
    for j in &list.jobs {
        t.add_row([
            j.job_id.clone(),
            j.kind.as_str().to_owned(),
            j.vm_name.clone(),
            state(j),
            percent(j),
            j.created_at.short(),
        ]);
    }
    t.trim_fmt()
}

fn state(j: &Job) -> String {
    match j.phase {
        Some(phase) if !j.status.is_final() => format!("{} ({phase})", j.status),
        _ => j.status.to_string(),
    }
}

fn percent(j: &Job) -> String {
    if j.status == JobStatus::Completed {
        return "100 %".to_owned();
    }
    let total: u64 = j.disks.iter().map(|d| d.total_bytes).sum();
    let done: u64 = j.disks.iter().map(|d| d.covered_bytes).sum();
    match done.saturating_mul(100).checked_div(total) {
        Some(p) => format!("{} %", p.min(100)),
        None => "-".to_owned(),
    }
}

pub(in crate::cli) fn job(j: &Job) -> String {
    let mut lines = vec![
        format!("{}  {}  {}", j.job_id, j.kind.as_str(), state(j)),
        format!("  machine  {}", j.vm_name),
        format!("  backup   {}", j.backup_id),
    ];
    if let Some(target) = &j.target {
        lines.push(format!("  target   {target}"));
    }
    if let Some(message) = &j.error_message {
        lines.push(format!("  error    {message}"));
    }
    for d in &j.disks {
        let eta = d
            .eta_seconds
            .map(|s| format!(", {s} s to go"))
            .unwrap_or_default();
        lines.push(format!(
            "  disk {}   {} of {}, {} stored, {} zero, {}/s{eta}",
            d.disk_id,
            bytes(d.covered_bytes),
            bytes(d.total_bytes),
            bytes(d.stored_bytes),
            bytes(d.zero_bytes),
            bytes(d.rate_bps)
        ));
    }
    lines.join("\n")
}
