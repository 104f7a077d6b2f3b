//! Making a restore point again of what lies in quarantine, where that is provably exact.
//!
//! 1. all disks of the backup are there, and go on where the VM's points end (the chain guard);
//! 2. every byte of them is what was sealed: checksum file, each cluster, structure, header;
//! 3. the files get their old places, never replacing; directories synced. From here on they are
//!    what a seal has behind its step 8;
//! 4. step 9: the manifest, as in any seal. (10 is the catalog's.)
//!
//! A crash before the rename of step 9 leaves finished files without a manifest, which recovery
//! brings back to quarantine; behind it the point is there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;

use super::backup_id::BackupId;
use super::commit::{Made, seal_point};
use super::growing::manifest_paths;
use super::ids::VmId;
use super::layers::open_layer_in;
use super::layout::{Part, disk_dir, points_dir};
use super::manifest::{DiskEntry, PointManifest, kind_together};
use super::points::{RestorePoint, VmPoints};
use super::quarantine::{finds_of, of_backup, quarantine_dir, why_not};
use super::sidecar::{DiskRecord, MAX_SIDECAR_BYTES};
use super::space;
use super::store::{Inner, Repository, lock};
use crate::storage::{Create, LockKind};
use crate::transfer::Progress;
use crate::verify::verify_layer;
use crate::{Error, ErrorKind, Result};

impl Repository {
    /// Makes a restore point of a backup in quarantine; it is the newest of its disks from then
    /// on. Refused where not every disk is there, a byte is not what was sealed, or the chain has
    /// moved on (`WrongState`, with the reason). Reads all of its images. `sealed_at` is now.
    pub fn adopt(
        &self,
        vm: VmId,
        id: &BackupId,
        sealed_at: Timestamp,
        progress: &Progress,
    ) -> Result<Arc<RestorePoint>> {
        let inner = &self.inner;
        let book = inner.book(vm);
        // The long part, before the VM's book is taken: nobody else writes in quarantine.
        let points = lock(&book).points(inner)?;
        let records = candidates(inner, &points, vm, id)?;
        for record in &records {
            check_bytes(inner, record, progress)?;
        }

        let mut book = lock(&book);
        book.refuse_in_doubt()?;
        let busy = book
            .writers
            .iter()
            .find(|w| records.iter().any(|r| r.disk == w.disk));
        if let Some(writer) = busy {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("disk {} is being written by {}", writer.disk, writer.job),
            ));
        }
        let points = book.points(inner)?;
        let records = candidates(inner, &points, vm, id)?;
        remove_stale_manifest(inner, vm, id).map_err(|e| inner.io(&format!("adopting {id}"), e))?;
        let mut made = Moved::default();
        let entries = match move_back(inner, &records, &mut made) {
            Ok(entries) => entries,
            Err(e) => {
                made.undo(inner);
                return Err(e);
            }
        };
        let manifest = manifest_of(&records, entries, &points, sealed_at)?;
        let mut step_9 = Made::default();
        match seal_point(inner, &mut book, &points, manifest, records, &mut step_9) {
            Ok(point) => Ok(point),
            Err(e) => {
                if !step_9.in_doubt {
                    step_9.undo(inner);
                    made.undo(inner);
                }
                Err(e)
            }
        }
    }
}

/// The disks of the backup, where they are a restore point by everything but their bytes.
fn candidates(
    inner: &Inner,
    points: &VmPoints,
    vm: VmId,
    id: &BackupId,
) -> Result<Vec<Arc<DiskRecord>>> {
    let finds = finds_of(inner, vm)?;
    let finds = of_backup(&finds, id);
    if finds.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("nothing of {id} lies in quarantine"),
        ));
    }
    if let Some(why) = why_not(inner, points, &finds) {
        return Err(refused(id, &why));
    }
    let mut records: Vec<_> = finds.iter().filter_map(|f| f.record.clone()).collect();
    records.sort_by_key(|r| r.disk);
    Ok(records)
}

fn refused(id: &BackupId, why: &str) -> Error {
    Error::new(
        ErrorKind::WrongState,
        format!("{id} cannot be adopted: {why}"),
    )
}

/// Every byte is what was sealed.
fn check_bytes(inner: &Inner, record: &Arc<DiskRecord>, progress: &Progress) -> Result<()> {
    let dir = quarantine_dir(record.vm_id, record.disk);
    let not_exact = |e: Error| match e.kind {
        ErrorKind::Damaged => refused(&record.backup_id, &e.to_string()),
        _ => e,
    };
    let layer = open_layer_in(inner, &dir, Arc::clone(record)).map_err(not_exact)?;
    let report = verify_layer(&layer, progress)?;
    if report.is_sound() {
        return Ok(());
    }
    let first = report
        .findings
        .first()
        .map(|f| format!("{}: {}", f.file, f.detail));
    Err(refused(&record.backup_id, &first.unwrap_or_default()))
}

/// What was moved out of quarantine, newest last.
#[derive(Debug, Default)]
struct Moved(Vec<(String, String)>);

impl Moved {
    /// Back to quarantine; what cannot go now, recovery brings there.
    fn undo(&mut self, inner: &Inner) {
        while let Some((from, to)) = self.0.pop() {
            let _ = inner.dir.rename(&to, &from);
        }
    }
}

/// Gives the files their old places; the entries of the manifest.
fn move_back(
    inner: &Inner,
    records: &[Arc<DiskRecord>],
    moved: &mut Moved,
) -> Result<Vec<DiskEntry>> {
    let dir = &*inner.dir;
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        let (from_dir, to_dir) = (
            quarantine_dir(record.vm_id, record.disk),
            disk_dir(record.vm_id, record.disk),
        );
        let io = |e| inner.io(&format!("moving {} back", record.backup_id), e);
        let stem = record.stem().ok_or_else(|| {
            Error::new(
                ErrorKind::Damaged,
                format!("{} has no stem", record.backup_id),
            )
        })?;
        let sidecar = format!("{from_dir}/{}", stem.file(Part::Sidecar));
        let bytes = dir.read_small(&sidecar, MAX_SIDECAR_BYTES).map_err(io)?;
        let image = format!("{from_dir}/{}", stem.file(Part::Image));
        not_open(inner, &image)?;
        dir.create_dirs(&points_dir(record.vm_id)).map_err(io)?;
        dir.create_dirs(&to_dir).map_err(io)?;
        for part in Part::ALL {
            let (from, to) = (
                format!("{from_dir}/{}", stem.file(part)),
                format!("{to_dir}/{}", stem.file(part)),
            );
            space::with_reserve(dir, || dir.rename(&from, &to)).map_err(io)?;
            moved.0.push((from, to));
        }
        dir.sync_dir(&to_dir).map_err(io)?;
        dir.sync_dir(&from_dir).map_err(io)?;
        entries.push(DiskEntry::new(record.disk, &stem, &bytes));
    }
    Ok(entries)
}

/// Nobody has the image open, here or elsewhere.
fn not_open(inner: &Inner, path: &str) -> Result<()> {
    let busy = || Error::new(ErrorKind::Busy, format!("{path} is open elsewhere"));
    let io = |e| inner.io(&format!("locking {path}"), e);
    if inner.shared.in_use(path) {
        return Err(busy());
    }
    let file = inner.dir.open(path, Create::OpenWrite).map_err(io)?;
    match file.lock(LockKind::Exclusive) {
        Ok(()) => file.unlock().map_err(io),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(busy()),
        Err(e) => Err(io(e)),
    }
}

fn manifest_of(
    records: &[Arc<DiskRecord>],
    entries: Vec<DiskEntry>,
    points: &VmPoints,
    sealed_at: Timestamp,
) -> Result<PointManifest> {
    let none = || Error::new(ErrorKind::Invalid, "a restore point without a disk");
    let first = records.first().ok_or_else(none)?;
    Ok(PointManifest {
        backup_id: first.backup_id.clone(),
        repository_id: first.repository_id,
        vm_id: first.vm_id,
        vm_name: first.vm_name.clone(),
        context_id: first.context_id.clone(),
        sequence: points.next_sequence(),
        requested_kind: kind_together(records.iter().map(|r| r.requested_kind)),
        kind: kind_together(records.iter().map(|r| r.kind)),
        disks: entries,
        started_at: first.started_at,
        sealed_at,
        software: first.software.clone(),
        unknown: BTreeMap::new(),
    })
}

/// An unfinished manifest that an adoption left behind when it was cut off stands in the way of the
/// next one.
fn remove_stale_manifest(inner: &Inner, vm: VmId, id: &BackupId) -> io::Result<()> {
    let (_, partial) = manifest_paths(inner, vm, id);
    match inner.dir.remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
