//! Chains as a tree: the way from the full to the head runs straight down, what branches off it
//! hangs to its right.
//!
//! ```text
//! ● F   full
//! ├─ D1 differential
//! ● D2  differential  head
//! ```

use super::{bytes, or_dash, table};
use crate::types::{Chain, ChainPoint, DiskChains, VmChains};

pub(in crate::cli) fn chains(chains: &VmChains) -> String {
    let mut lines = vec![format!("{} ({})", chains.vm_name, chains.vm_id)];
    for disk in &chains.disks {
        lines.push(format!(
            "disk {}: {} points, {} in the current chain",
            disk.disk_id,
            disk.total_backups,
            bytes(disk.total_size_bytes)
        ));
        if disk.chains.is_empty() {
            lines.push("  no restore points".to_owned());
        }
        for chain in &disk.chains {
            lines.push(one(disk, chain));
        }
    }
    lines.join("\n")
}

fn one(disk: &DiskChains, chain: &Chain) -> String {
    let current = if chain.current { ", current" } else { "" };
    let head = chain.backups.iter().max_by_key(|p| p.sequence);
    let mut t = table(&["restore point", "type", "stored", "sealed", "becomes", ""]);
    for (rail, p) in tree(&chain.backups) {
        let is_head = head.is_some_and(|h| h.backup_id == p.backup_id);
        let latest = disk.latest_backup_id.as_ref() == Some(&p.backup_id);
        t.add_row([
            format!("{rail} {}", p.backup_id),
            p.backup_type.to_string(),
            bytes(p.stored_bytes),
            or_dash(p.sealed_at.map(|t| t.short())),
            or_dash(p.change_id.as_ref()),
            match (is_head, latest) {
                (_, true) => "latest".to_owned(),
                (true, false) => "head".to_owned(),
                _ => String::new(),
            },
        ]);
    }
    let points = t.trim_fmt().replace('\n', "\n  ");
    format!(
        "  chain {} in {}{current}\n  {points}",
        chain.chain_id, chain.repository
    )
}

/// The points with what is drawn before each.
pub(super) fn tree(points: &[ChainPoint]) -> Vec<(String, &ChainPoint)> {
    let find = |id: &str| points.iter().find(|p| p.backup_id == id);
    let parent = |p: &ChainPoint| p.parent_backup_id.as_deref().and_then(find);
    // The straight way, from the head up. A cycle cannot come from our daemon, yet must not hang.
    let mut straight: Vec<&ChainPoint> = Vec::new();
    let mut next = points.iter().max_by_key(|p| p.sequence);
    while let Some(p) = next.filter(|_| straight.len() < points.len()) {
        straight.push(p);
        next = parent(p);
    }
    straight.reverse();
    let mut drawn: Vec<(String, &ChainPoint)> = Vec::new();
    for (i, p) in straight.iter().enumerate() {
        drawn.push(("●".to_owned(), p));
        let on = straight.get(i + 1);
        branches(points, p, on.copied(), "", &mut drawn);
    }
    // Whatever has lost its parent is shown all the same.
    for p in points {
        if !drawn.iter().any(|(_, d)| d.backup_id == p.backup_id) {
            drawn.push(("?".to_owned(), p));
        }
    }
    drawn
}

/// What hangs from `of`, except `on`, where the line goes straight on.
fn branches<'a>(
    points: &'a [ChainPoint],
    of: &ChainPoint,
    on: Option<&ChainPoint>,
    before: &str,
    drawn: &mut Vec<(String, &'a ChainPoint)>,
) {
    let children: Vec<&ChainPoint> = points
        .iter()
        .filter(|p| p.parent_backup_id.as_ref() == Some(&of.backup_id))
        .filter(|p| on.is_none_or(|on| on.backup_id != p.backup_id))
        .filter(|p| p.backup_id != of.backup_id)
        .collect();
    for (i, child) in children.iter().enumerate() {
        if drawn.iter().any(|(_, d)| d.backup_id == child.backup_id) {
            continue;
        }
        let last = on.is_none() && i + 1 == children.len();
        let (corner, below) = if last {
            ("└─", "   ")
        } else {
            ("├─", "│  ")
        };
        drawn.push((format!("{before}{corner}"), child));
        branches(points, child, None, &format!("{before}{below}"), drawn);
    }
}
