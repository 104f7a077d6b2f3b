//! Printing: tables for people, the API's objects for programs. The only place that prints.
#![expect(clippy::print_stderr, reason = "this is where the command line speaks")]

use std::io::{BufRead, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{CliError, Context, Result};
use crate::types::{
    Backup, BackupList, Deletion, Health, Job, JobList, RepositoryList, RestoreExport,
    RestoreExportList, Vm, VmChains, VmList,
};

/// Whether this process is root's: decides the default data directory.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Whether somebody watches.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

pub(super) fn error_line(text: &str) {
    eprintln!("{text}");
}

pub(super) fn line(text: &str) {
    // A closed pipe is the reader's way of saying "enough".
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The API's own object.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::new(1, format!("the answer cannot be printed: {e}")))?;
    line(&text);
    Ok(())
}

/// Asks on the terminal; without one the answer is no, and says how to say yes.
pub(super) fn confirm(question: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(64, "nobody is there to ask").hint("add --yes to do it"));
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(CliError::new(130, "nothing was done")),
    }
}

/// Bytes for people.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut rest = n;
    let mut tenths = 0;
    let mut unit = "B";
    for next in UNITS {
        if rest < 1024 {
            break;
        }
        tenths = (rest % 1024) * 10 / 1024;
        rest /= 1024;
        unit = next;
    }
    if unit == "B" {
        format!("{rest} B")
    } else {
        format!("{rest}.{tenths} {unit}")
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().map(|h| h.to_ascii_uppercase()));
    if !std::io::stdout().is_terminal() {
        // Lines of a pipe are never broken.
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

fn print(table: &Table) {
    line(&table.trim_fmt());
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

pub(super) fn health(c: &Context, h: &Health) -> Result<()> {
    if c.json {
        return json(h);
    }
    let commit = h
        .commit
        .as_deref()
        .map(|x| format!(" ({x})"))
        .unwrap_or_default();
    line(&format!(
        "{} at {}: sendensed {}{commit}, storage by {}, up since {}",
        h.status,
        c.client.url(),
        h.version,
        h.io_engine,
        h.started_at.short()
    ));
    Ok(())
}

pub(super) fn repositories(c: &Context, list: &RepositoryList) -> Result<()> {
    if c.json {
        return json(list);
    }
    let mut t = table(&["name", "type", "backups", "free", "size", "state"]);
    for r in &list.repositories {
        t.add_row([
            r.name.clone(),
            r.repository_type.clone(),
            r.backup_count.to_string(),
            bytes(r.available_size_bytes),
            bytes(r.total_size_bytes),
            match r.problems.as_slice() {
                [] if r.enabled => "ok".to_owned(),
                [] => "off".to_owned(),
                problems => problems.join("; "),
            },
        ]);
    }
    print(&t);
    Ok(())
}

pub(super) fn vms(c: &Context, list: &VmList) -> Result<()> {
    if c.json {
        return json(list);
    }
    let mut t = table(&["name", "id", "disks", "size", "registered"]);
    for vm in &list.vms {
        t.add_row([
            vm.name.clone(),
            vm.vm_id.clone(),
            vm.disks.len().to_string(),
            bytes(vm.disks.iter().map(|d| d.size_bytes).sum()),
            vm.created_at.short(),
        ]);
    }
    print(&t);
    Ok(())
}

pub(super) fn vm(c: &Context, vm: &Vm) -> Result<()> {
    if c.json {
        return json(vm);
    }
    line(&format!("{} ({}, {})", vm.name, vm.vm_id, vm.context_id));
    let mut t = table(&["disk", "size", "bytes", "device key", "source"]);
    for d in &vm.disks {
        t.add_row([
            d.disk_id.to_string(),
            bytes(d.size_bytes),
            d.size_bytes.to_string(),
            d.device_key.clone(),
            d.source.clone(),
        ]);
    }
    print(&t);
    Ok(())
}

pub(super) fn backups(c: &Context, list: &BackupList) -> Result<()> {
    if c.json {
        return json(list);
    }
    let mut t = table(&["backup", "vm", "type", "state", "size", "stored", "sealed"]);
    for b in &list.backups {
        t.add_row([
            b.backup_id.clone(),
            b.vm_name.clone(),
            b.backup_type.to_string(),
            if b.missing {
                "missing".to_owned()
            } else {
                state(b)
            },
            bytes(b.total_bytes),
            bytes(b.stored_bytes),
            or_dash(b.sealed_at.map(|t| t.short())),
        ]);
    }
    print(&t);
    Ok(())
}

fn state(b: &Backup) -> String {
    match b.phase {
        Some(phase) if !b.status.is_final() => format!("{} ({phase})", b.status),
        _ => b.status.to_string(),
    }
}

pub(super) fn backup(c: &Context, b: &Backup) -> Result<()> {
    if c.json {
        return json(b);
    }
    line(&format!("{}  {}", b.backup_id, state(b)));
    line(&format!("  machine     {} ({})", b.vm_name, b.vm_id));
    line(&format!("  repository  {}", b.repository));
    line(&format!(
        "  type        {}, {} asked: {}",
        b.backup_type, b.requested_type, b.reason
    ));
    if let Some(parent) = &b.parent_backup_id {
        line(&format!("  parent      {parent}"));
    }
    line(&format!(
        "  bytes       {} disk, {} transferred, {} zero, {} stored",
        bytes(b.total_bytes),
        bytes(b.bytes_transferred),
        bytes(b.zero_bytes),
        bytes(b.stored_bytes)
    ));
    line(&format!(
        "  times       started {}, sealed {}, verified {}",
        or_dash(b.started_at.map(|t| t.short())),
        or_dash(b.sealed_at.map(|t| t.short())),
        or_dash(b.verified_at.map(|t| t.short()))
    ));
    if b.missing {
        line("  missing     the repository no longer holds its files");
    }
    if let Some(message) = &b.error_message {
        line(&format!(
            "  error       {} ({})",
            message,
            or_dash(b.error_code.as_ref())
        ));
    }
    for d in &b.disks {
        line(&format!(
            "  disk {}      {}, {} ({} bytes), {} stored",
            d.disk_id,
            d.backup_type,
            bytes(d.size_bytes),
            d.size_bytes,
            bytes(d.stored_bytes)
        ));
        for (name, value) in [
            ("base", &d.base_change_id),
            ("becomes", &d.change_id),
            ("image", d.path.as_ref().map_or(&d.locator, |_| &d.path)),
        ] {
            if let Some(value) = value {
                line(&format!("    {name:<10}{value}"));
            }
        }
        for uri in &d.nbd_uris {
            line(&format!("    write to  {uri}"));
        }
    }
    Ok(())
}

pub(super) fn chains(c: &Context, chains: &VmChains) -> Result<()> {
    if c.json {
        return json(chains);
    }
    line(&format!("{} ({})", chains.vm_name, chains.vm_id));
    for disk in &chains.disks {
        line(&format!("disk {}", disk.disk_id));
        for chain in &disk.chains {
            let current = if chain.current { ", current" } else { "" };
            line(&format!(
                "  chain {} in {}{current}",
                chain.chain_id, chain.repository
            ));
            for p in &chain.backups {
                // A differential hangs from its full again.
                let depth = depth(chain, p, 0);
                line(&format!(
                    "  {}{} {}  {}  {}  {}",
                    "   ".repeat(depth.min(12)),
                    if depth == 0 { "●" } else { "└─" },
                    p.backup_id,
                    p.backup_type,
                    bytes(p.stored_bytes),
                    or_dash(p.sealed_at.map(|t| t.short()))
                ));
            }
        }
    }
    Ok(())
}

fn depth(chain: &crate::types::Chain, p: &crate::types::ChainPoint, guard: usize) -> usize {
    let parent = p.parent_backup_id.as_ref().filter(|_| guard < 12);
    match parent.and_then(|id| chain.backups.iter().find(|b| b.backup_id == *id)) {
        Some(parent) => 1 + depth(chain, parent, guard + 1),
        None => 0,
    }
}

pub(super) fn deletion(c: &Context, d: &Deletion) -> Result<()> {
    if c.json {
        return json(d);
    }
    let verb = if d.dry_run { "would delete" } else { "deleted" };
    for item in &d.deleted {
        line(&format!(
            "{verb} {} ({})",
            item.backup_id,
            bytes(item.bytes)
        ));
    }
    for warning in &d.warnings {
        error_line(&format!("warning: {warning}"));
    }
    let verb = if d.dry_run { "would free" } else { "freed" };
    line(&format!("{verb} {}", bytes(d.freed_bytes)));
    Ok(())
}

pub(super) fn jobs(c: &Context, list: &JobList) -> Result<()> {
    if c.json {
        return json(list);
    }
    let mut t = table(&["job", "kind", "vm", "state", "done", "created"]);
    for j in &list.jobs {
        t.add_row([
            j.job_id.clone(),
            j.kind.as_str().to_owned(),
            j.vm_name.clone(),
            job_state(j),
            percent(j),
            j.created_at.short(),
        ]);
    }
    print(&t);
    Ok(())
}

fn job_state(j: &Job) -> String {
    match j.phase {
        Some(phase) if !j.status.is_final() => format!("{} ({phase})", j.status),
        _ => j.status.to_string(),
    }
}

fn percent(j: &Job) -> String {
    let total: u64 = j.disks.iter().map(|d| d.total_bytes).sum();
    let done: u64 = j.disks.iter().map(|d| d.covered_bytes).sum();
    match done.saturating_mul(100).checked_div(total) {
        Some(p) => format!("{} %", p.min(100)),
        None => "-".to_owned(),
    }
}

pub(super) fn job(c: &Context, j: &Job) -> Result<()> {
    if c.json {
        return json(j);
    }
    line(&format!(
        "{}  {}  {}",
        j.job_id,
        j.kind.as_str(),
        job_state(j)
    ));
    line(&format!("  machine  {}", j.vm_name));
    line(&format!("  backup   {}", j.backup_id));
    if let Some(target) = &j.target {
        line(&format!("  target   {target}"));
    }
    if let Some(message) = &j.error_message {
        line(&format!("  error    {message}"));
    }
    for d in &j.disks {
        let eta = d
            .eta_seconds
            .map(|s| format!(", {s} s to go"))
            .unwrap_or_default();
        line(&format!(
            "  disk {}   {} of {}, {} stored, {} zero, {}/s{eta}",
            d.disk_id,
            bytes(d.covered_bytes),
            bytes(d.total_bytes),
            bytes(d.stored_bytes),
            bytes(d.zero_bytes),
            bytes(d.rate_bps)
        ));
    }
    Ok(())
}

pub(super) fn export(c: &Context, e: &RestoreExport) -> Result<()> {
    if c.json {
        return json(e);
    }
    line(&format!(
        "{}  {} disk {}",
        e.export_id, e.backup_id, e.disk_id
    ));
    for uri in &e.nbd_uris {
        line(&format!("  {uri}"));
    }
    line(&format!(
        "  until {} without a client",
        e.expires_at.short()
    ));
    Ok(())
}

pub(super) fn exports(c: &Context, list: &RestoreExportList) -> Result<()> {
    if c.json {
        return json(list);
    }
    let mut t = table(&["export", "backup", "disk", "clients", "expires"]);
    for e in &list.exports {
        t.add_row([
            e.export_id.clone(),
            e.backup_id.clone(),
            e.disk_id.to_string(),
            e.connections.to_string(),
            e.expires_at.short(),
        ]);
    }
    print(&t);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(10 << 30), "10.0 GiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
    }
}
