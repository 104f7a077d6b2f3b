//! Backups for people: the list, one in full, what a deletion takes.

use super::{bytes, or_dash, table};
use crate::types::{Backup, BackupDisk, BackupList, Deletion};

/// What every image has unless its start said otherwise: not worth a line.
const USUAL_CLUSTER: u64 = 64 << 10;

pub(in crate::cli) fn backups(list: &BackupList) -> String {
    if list.backups.is_empty() {
        return "no restore points".to_owned();
    }
    let mut t = table(&["backup", "vm", "type", "state", "size", "stored", "sealed"]);
    for b in &list.backups {
        t.add_row([
            b.backup_id.clone(),
            b.vm_name.clone(),
            b.backup_type.to_string(),
            if b.missing {
                "missing".to_owned()
            } else if b.damage.is_some() {
                "damaged".to_owned()
            } else {
                state(b)
            },
            bytes(b.total_bytes),
            bytes(b.stored_bytes),
            or_dash(b.sealed_at.map(|t| t.short())),
        ]);
    }
    let more = if list.next_cursor.is_some() {
        "\nthere are more: raise --limit"
    } else {
        ""
    };
    format!("{}{more}", t.trim_fmt())
}

fn state(b: &Backup) -> String {
    match b.phase {
        Some(phase) if !b.status.is_final() => format!("{} ({phase})", b.status),
        _ => b.status.to_string(),
    }
}

pub(in crate::cli) fn backup(b: &Backup) -> String {
    let mut lines = vec![
        format!("{}  {}", b.backup_id, state(b)),
        format!("  machine     {} ({})", b.vm_name, b.vm_id),
        format!("  repository  {}", b.repository),
        format!(
            "  type        {} ({} asked): {}",
            b.backup_type, b.requested_type, b.reason
        ),
    ];
    if let Some(parent) = &b.parent_backup_id {
        lines.push(format!("  parent      {parent}"));
    }
    lines.push(format!(
        "  bytes       {} disk, {} transferred, {} zero, {} stored",
        bytes(b.total_bytes),
        bytes(b.bytes_transferred),
        bytes(b.zero_bytes),
        bytes(b.stored_bytes)
    ));
    lines.push(format!(
        "  times       started {}, sealed {}, verified {}",
        or_dash(b.started_at.map(|t| t.short())),
        or_dash(b.sealed_at.map(|t| t.short())),
        or_dash(b.verified_at.map(|t| t.short()))
    ));
    if b.missing {
        lines.push("  missing     the repository no longer holds its files".to_owned());
    }
    if let Some(damage) = &b.damage {
        lines.push(format!("  damaged     {damage}"));
    }
    if let Some(message) = &b.error_message {
        let code = or_dash(b.error_code.as_ref());
        lines.push(format!("  error       {message} ({code})"));
    }
    for d in &b.disks {
        disk(d, &mut lines);
    }
    lines.join("\n")
}

fn disk(d: &BackupDisk, lines: &mut Vec<String>) {
    lines.push(format!(
        "  disk {:<6} {}, {} ({} bytes), {} stored",
        d.disk_id,
        d.backup_type,
        bytes(d.size_bytes),
        d.size_bytes,
        bytes(d.stored_bytes)
    ));
    if d.cluster_size > USUAL_CLUSTER {
        lines.push(format!("    clusters  {}", bytes(d.cluster_size)));
    }
    for (name, value) in [
        ("base", &d.base_change_id),
        ("becomes", &d.change_id),
        ("image", d.path.as_ref().map_or(&d.locator, |_| &d.path)),
    ] {
        if let Some(value) = value {
            lines.push(format!("    {name:<10}{value}"));
        }
    }
    for uri in &d.nbd_uris {
        lines.push(format!("    write to  {uri}"));
    }
}

pub(in crate::cli) fn deletion(d: &Deletion) -> String {
    let (deletes, frees) = if d.dry_run {
        ("would delete", "would free")
    } else {
        ("deleted", "freed")
    };
    let mut lines: Vec<String> = d
        .deleted
        .iter()
        .map(|item| format!("{deletes} {} ({})", item.backup_id, bytes(item.bytes)))
        .collect();
    lines.extend(d.warnings.iter().map(|w| format!("warning: {w}")));
    lines.push(format!("{frees} {}", bytes(d.freed_bytes)));
    lines.join("\n")
}
