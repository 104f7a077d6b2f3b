//! From manifests to rows: step 10 of the seal, and how a manifest without a row is taken in.
//!
//! The rows of a sealed point say what its manifest says and nothing else. Chains are computed
//! from all points of the VM and replaced in the same transaction.

use std::collections::BTreeMap;

use sendense_engine::repository::guard::Head;
use sendense_engine::repository::{DiskNumber, DiskRecord, RestorePoint, VmPoints};

use super::Result;
use crate::store::{BackupRow, ChainRow, DiskRow, Store, VmDiskRow, VmRow, WriteTx};
use crate::types::{Time, VmDisk};

fn micros(t: jiff::Timestamp) -> i64 {
    Time::from(t).micros()
}

/// The row of a sealed point; what the job knew besides is kept.
pub(super) fn backup_row(point: &RestorePoint, job: Option<BackupRow>) -> BackupRow {
    let m = &point.manifest;
    let parent = point.disks.iter().find_map(|d| d.parent.as_ref());
    BackupRow {
        id: m.backup_id.as_str().to_owned(),
        vm_id: m.vm_id.to_string(),
        vm_name: m.vm_name.clone(),
        repository_id: m.repository_id.to_string(),
        requested_type: m.requested_kind.as_str().to_owned(),
        backup_type: m.kind.as_str().to_owned(),
        reason: reason(&point.disks.iter().map(|d| &**d).collect::<Vec<_>>()),
        status: "completed".to_owned(),
        phase: None,
        parent_backup_id: parent.map(|p| p.backup_id.as_str().to_owned()),
        error_code: None,
        error_message: None,
        missing: 0,
        // What a row already knows of its damage and its place stays: see `upsert_backup`.
        damage: None,
        damage_found_at: None,
        place: micros(m.started_at),
        created_at: job.as_ref().map_or(micros(m.started_at), |j| j.created_at),
        started_at: Some(micros(m.started_at)),
        completed_at: Some(micros(m.sealed_at)),
        sealed_at: Some(micros(m.sealed_at)),
        verified_at: job.and_then(|j| j.verified_at),
    }
}

/// One reason where all disks share it, else one per disk.
fn reason(disks: &[&DiskRecord]) -> String {
    match disks {
        [first, rest @ ..] if rest.iter().all(|d| d.reason_detail == first.reason_detail) => {
            first.reason_detail.clone()
        }
        _ => {
            let each = disks
                .iter()
                .map(|d| format!("disk {}: {}", d.disk, d.reason_detail));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}

/// The row of one disk of a sealed point.
fn disk_row(record: &DiskRecord, sealed_at: i64, job: Option<&DiskRow>) -> DiskRow {
    DiskRow {
        backup_id: record.backup_id.as_str().to_owned(),
        disk_id: record.disk.get(),
        device_key: record.device_key.as_str().to_owned(),
        backup_type: record.kind.as_str().to_owned(),
        source: job.map_or_else(|| "push".to_owned(), |j| j.source.clone()),
        parent_backup_id: record
            .parent
            .as_ref()
            .map(|p| p.backup_id.as_str().to_owned()),
        sequence: Some(crate::store::db(record.sequence.get())),
        size_bytes: record.virtual_size,
        cluster_size: record.cluster_size,
        base_change_id: record.base_token.as_ref().map(|t| t.as_str().to_owned()),
        change_id: Some(record.token.as_str().to_owned()),
        bytes_transferred: record.counts.transferred,
        stored_bytes: record.image.len,
        zero_bytes: record.counts.zero,
        covered_bytes: record.counts.covered,
        checksum: Some(format!("{:08x}", record.checksums.crc32)),
        locator: Some(format!(
            "{}/disk-{}/{}",
            record.vm_id, record.disk, record.image.file
        )),
        export_name: job.and_then(|j| j.export_name.clone()),
        export_secret_hash: None,
        sealed_at: Some(sealed_at),
        verified_at: job.and_then(|j| j.verified_at),
    }
}

/// Writes everything that the catalog says about a sealed point, but the chains.
pub(super) async fn record_point(
    store: &Store,
    tx: &mut WriteTx,
    point: &RestorePoint,
) -> Result<()> {
    let m = &point.manifest;
    let id = m.backup_id.as_str();
    let vm_id = m.vm_id.to_string();
    if store.vm(&vm_id).await?.is_none() {
        tx.insert_vm(&VmRow {
            id: vm_id.clone(),
            context_id: m.context_id.as_ref().map_or_else(
                || {
                    let made = sendense_engine::repository::ContextId::of_vm(m.vm_id, &m.vm_name);
                    made.as_str().to_owned()
                },
                |c| c.as_str().to_owned(),
            ),
            name: m.vm_name.clone(),
            created_at: micros(m.started_at),
        })
        .await?;
    }
    let known = store.vm_disks(&vm_id).await?;
    let jobs = store.backup_disks(id).await?;
    let mut row = backup_row(point, store.backup(id).await?);
    if let Some(parent) = &row.parent_backup_id
        && !tx.backup_exists(parent).await?
    {
        row.parent_backup_id = None;
    }
    tx.upsert_backup(&row).await?;
    for record in &point.disks {
        let disk_id = record.disk.get();
        let known = known.iter().find(|d| d.disk_id == disk_id);
        let job = jobs.iter().find(|j| j.disk_id == disk_id);
        let source = job.map(|j| &j.source).or(known.map(|d| &d.source));
        tx.upsert_vm_disk(&VmDiskRow {
            vm_id: vm_id.clone(),
            disk_id,
            device_key: record.device_key.as_str().to_owned(),
            size_bytes: record.virtual_size,
            source: source.map_or_else(|| "push".to_owned(), Clone::clone),
        })
        .await?;
        let mut row = disk_row(record, micros(m.sealed_at), job);
        if let Some(parent) = &row.parent_backup_id
            && !tx.backup_disk_exists(parent, disk_id).await?
        {
            row.parent_backup_id = None;
        }
        tx.upsert_backup_disk(&row).await?;
    }
    Ok(())
}

/// Puts the points of a VM in one repository into the order of their sequence. Places only rise,
/// so that a page which somebody is at stays about where it is.
pub(super) async fn record_order(
    tx: &mut WriteTx,
    vm_id: &str,
    repository_id: &str,
    points: &VmPoints,
) -> Result<()> {
    let known = tx.sealed_of(vm_id, repository_id, true).await?;
    let known: BTreeMap<String, i64> = known.into_iter().collect();
    let mut last = i64::MIN;
    for point in points.all() {
        let id = point.id().as_str();
        let Some(place) = known.get(id) else {
            continue;
        };
        last = (*place).max(last.saturating_add(1));
        if last != *place {
            tx.set_backup_place(id, last).await?;
        }
    }
    Ok(())
}

/// Replaces the chains of a VM in one repository by what its points say.
pub(super) async fn record_chains(
    tx: &mut WriteTx,
    vm_id: &str,
    repository_id: &str,
    points: &VmPoints,
) -> Result<()> {
    tx.clear_chains(vm_id, repository_id).await?;
    for (disk, _) in points.bindings() {
        for chain in chains_of(points, disk, vm_id, repository_id) {
            tx.insert_chain(&chain).await?;
        }
    }
    Ok(())
}

fn chains_of(
    points: &VmPoints,
    disk: DiskNumber,
    vm_id: &str,
    repository_id: &str,
) -> Vec<ChainRow> {
    let head = match points.head(disk) {
        Head::At(record) => Some(record.backup_id.as_str()),
        _ => None,
    };
    // A parent comes before its children: one pass finds every point's full.
    let mut full_of: BTreeMap<&str, &str> = BTreeMap::new();
    let mut chains: Vec<ChainRow> = Vec::new();
    let sealed: BTreeMap<&str, i64> = points
        .all()
        .iter()
        .map(|p| (p.id().as_str(), micros(p.manifest.sealed_at)))
        .collect();
    for record in points.of_disk(disk) {
        let id = record.backup_id.as_str();
        let sealed_at = sealed.get(id).copied().unwrap_or_default();
        let full = match &record.parent {
            None => id,
            Some(parent) => match full_of.get(parent.backup_id.as_str()) {
                Some(full) => full,
                // Its lineage is broken: it belongs to no chain.
                None => continue,
            },
        };
        full_of.insert(id, full);
        let current = i64::from(head == Some(id));
        match chains.iter_mut().find(|c| c.full_backup_id == full) {
            Some(chain) => {
                id.clone_into(&mut chain.latest_backup_id);
                chain.total_backups += 1;
                chain.total_size_bytes += record.image.len;
                chain.current = current;
                chain.updated_at = sealed_at;
            }
            None => chains.push(ChainRow {
                id: format!("chain-{}-disk{disk}", full.trim_start_matches("backup-")),
                vm_id: vm_id.to_owned(),
                disk_id: disk.get(),
                repository_id: repository_id.to_owned(),
                full_backup_id: full.to_owned(),
                latest_backup_id: id.to_owned(),
                total_backups: 1,
                total_size_bytes: record.image.len,
                current,
                created_at: sealed_at,
                updated_at: sealed_at,
            }),
        }
    }
    chains
}

/// What a caller sees of a disk of a machine.
pub(super) fn vm_disk_view(d: VmDiskRow) -> VmDisk {
    VmDisk {
        disk_id: d.disk_id,
        size_bytes: d.size_bytes,
        device_key: d.device_key,
        source: d.source,
    }
}
