//! The daemon's own things for people: health, repositories, machines, exports.

use super::{bytes, or_dash, table};
use crate::types::{
    ExportList, Health, Quarantine, Reload, RepositoryList, RestoreExport, RestoreExportList, Vm,
    VmList,
};

pub(in crate::cli) fn health(url: &str, h: &Health) -> String {
    let commit = h
        .commit
        .as_deref()
        .map(|x| format!(" ({x})"))
        .unwrap_or_default();
    let mut lines = vec![format!(
        "{} at {url}: sendensed {}{commit}, storage by {}, up since {}",
        h.status,
        h.version,
        h.io_engine,
        h.started_at.short()
    )];
    lines.extend(h.problems.iter().map(|p| format!("  problem     {p}")));
    lines.join("\n")
}

pub(in crate::cli) fn repositories(list: &RepositoryList) -> String {
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
    t.trim_fmt()
}

pub(in crate::cli) fn quarantine(q: &Quarantine) -> String {
    if q.finds.is_empty() {
        return format!("nothing lies in the quarantine of {}", q.repository);
    }
    let mut t = table(&["backup", "vm", "disk", "type", "bytes", "adoptable"]);
    for f in &q.finds {
        t.add_row([
            f.backup_id.clone().unwrap_or_else(|| f.locator.clone()),
            f.vm_name.clone().unwrap_or_else(|| f.vm_id.clone()),
            f.disk_id.to_string(),
            or_dash(f.backup_type),
            bytes(f.bytes),
            match &f.why_not {
                None => "yes".to_owned(),
                Some(why) => format!("no: {why}"),
            },
        ]);
    }
    t.trim_fmt()
}

pub(in crate::cli) fn vms(list: &VmList) -> String {
    if list.vms.is_empty() {
        return "no machines".to_owned();
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
    t.trim_fmt()
}

pub(in crate::cli) fn vm(vm: &Vm) -> String {
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
    format!(
        "{} ({}, {})\n{}",
        vm.name,
        vm.vm_id,
        vm.context_id,
        t.trim_fmt()
    )
}

pub(in crate::cli) fn restore_export(e: &RestoreExport) -> String {
    let mut lines = vec![format!(
        "{}  {} disk {}",
        e.export_id, e.backup_id, e.disk_id
    )];
    lines.extend(e.nbd_uris.iter().map(|uri| format!("  {uri}")));
    lines.push(format!("  until {} without a client", e.expires_at.short()));
    lines.join("\n")
}

pub(in crate::cli) fn restore_exports(list: &RestoreExportList) -> String {
    if list.exports.is_empty() {
        return "no restore exports".to_owned();
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
    t.trim_fmt()
}

pub(in crate::cli) fn declared(list: &ExportList) -> String {
    if list.exports.is_empty() {
        return "no declared exports".to_owned();
    }
    let mut t = table(&["export", "clients", "description"]);
    for e in &list.exports {
        t.add_row([
            e.name.clone(),
            e.connections.to_string(),
            e.description.clone(),
        ]);
    }
    t.trim_fmt()
}

pub(in crate::cli) fn reload(r: &Reload) -> String {
    let mut lines = Vec::new();
    for (verb, names) in [
        ("added", &r.added),
        ("changed", &r.changed),
        ("removed", &r.removed),
    ] {
        lines.extend(names.iter().map(|name| format!("{verb} {name}")));
    }
    lines.push(format!("{} unchanged", r.unchanged));
    if r.certificates {
        lines.push("certificates read again".to_owned());
    }
    lines.extend(r.refused.iter().map(|why| format!("refused {why}")));
    lines.extend(r.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}
