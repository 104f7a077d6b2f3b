//! The end of a backup: its disks become a restore point, all of them or none.
//!
//! The steps are those of the seal; 1 to 6 (freeze, metadata, header, cut, check) made each image
//! whole before it came here. A failure at any of these leaves the old head:
//!
//! 7. per disk: checksums and sidecar under temporary names, synced;
//! 8. per disk: image, checksums, sidecar get their names, never replacing; directory synced;
//! 9. the manifest under a temporary name, synced; renamed; directory synced. *This one rename
//!    commits all disks.* (10 is the catalog's.)
//!
//! Where 9 itself fails nobody can know whether it took: then nothing is removed, and the VM stays
//! as it is until recovery has looked.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use sendense_formats::ClusterSize;
use sendense_formats::qcow2::{Header, image_size};

use super::book::VmBook;
use super::growing::{Growing, manifest_paths};
use super::ids::{ChangeToken, Sequence};
use super::layout::{Part, disk_dir, points_dir};
use super::manifest::{DiskEntry, PointManifest, kind_together};
use super::points::{RestorePoint, VmPoints};
use super::sidecar::{ChecksumsRef, Counts, DiskRecord, ImageRef};
use super::store::{Inner, Repository, lock};
use super::{SumSource, write_checksums};
use crate::ingest::Prepared;
use crate::storage::Create;
use crate::{Error, ErrorKind, Result};

/// A disk whose image is whole, durable and checked, but not yet named.
#[derive(Debug)]
pub struct PreparedDisk {
    /// Its file.
    pub growing: Growing,
    /// The image's length in bytes.
    pub file_len: u64,
    /// The image's cluster size.
    pub cluster: ClusterSize,
    /// Bytes counted while they came in.
    pub counts: Counts,
    /// CRC-32 of every host cluster of the image.
    pub checksums: Arc<dyn SumSource>,
    /// What the content is called; none: `sendense:{backup_id}`.
    pub token: Option<ChangeToken>,
    /// When the disk was complete.
    pub completed_at: Timestamp,
}

impl PreparedDisk {
    /// A disk that an ingest has received and prepared.
    pub fn received(
        growing: Growing,
        prepared: Prepared,
        token: Option<ChangeToken>,
        completed_at: Timestamp,
    ) -> Self {
        Self {
            growing,
            file_len: prepared.file_len,
            cluster: prepared.cluster,
            counts: Counts {
                transferred: prepared.transferred_bytes,
                stored: prepared.stored_bytes,
                zero: prepared.zero_bytes,
                covered: prepared.covered_bytes,
            },
            checksums: prepared.checksums,
            token,
            completed_at,
        }
    }
}

impl Repository {
    /// Seals a restore point of these disks. All that the job began must be among them; they are
    /// one point or none, and given up where it fails.
    pub fn commit(
        &self,
        mut disks: Vec<PreparedDisk>,
        sealed_at: Timestamp,
    ) -> Result<Arc<RestorePoint>> {
        disks.sort_by_key(|d| d.growing.disk());
        let mut made = Made::default();
        let result = commit(&self.inner, &mut disks, sealed_at, &mut made);
        if result.is_err() && !made.in_doubt {
            made.undo(&self.inner);
        }
        // The book is unlocked by now: dropping gives locks and places back.
        drop(disks);
        result
    }
}

/// What a commit has made so far, newest last.
#[derive(Debug, Default)]
pub(super) struct Made {
    paths: Vec<String>,
    pub(super) in_doubt: bool,
}

impl Made {
    /// Removes it again, newest first. What cannot be removed now is found by recovery: unfinished
    /// files are removed there, finished ones go to quarantine.
    pub(super) fn undo(&mut self, inner: &Inner) {
        while let Some(path) = self.paths.pop() {
            let _ = inner.dir.remove_file(&path);
        }
    }

    fn renamed(&mut self, from: &str, to: String) {
        self.paths.retain(|path| path != from);
        self.paths.push(to);
    }
}

fn commit(
    inner: &Arc<Inner>,
    disks: &mut [PreparedDisk],
    sealed_at: Timestamp,
    made: &mut Made,
) -> Result<Arc<RestorePoint>> {
    let Some(first) = disks.first() else {
        return Err(Error::new(
            ErrorKind::Invalid,
            "a restore point without a disk",
        ));
    };
    let vm = first.growing.vm();
    check_draft(inner, disks)?;

    // Step 7, the long part of it: checksums, before the VM's book is taken.
    let mut sums = Vec::with_capacity(disks.len());
    for disk in &*disks {
        sums.push(write_sums(inner, disk, made)?);
    }

    let book = inner.book(vm);
    let mut book = lock(&book);
    book.refuse_in_doubt()?;
    check_complete(&book, disks)?;
    let points = book.points(inner)?;

    // Step 7, the rest: sidecars.
    let mut records = Vec::with_capacity(disks.len());
    let mut entries = Vec::with_capacity(disks.len());
    for (disk, sums) in disks.iter().zip(sums) {
        let mut record = record_of(
            inner,
            disk,
            sums,
            points.next_disk_sequence(disk.growing.disk()),
        );
        record.point_disks = u32::try_from(disks.len()).ok();
        let bytes = record.encode()?;
        let partial = disk.growing.partial_path(Part::Sidecar);
        made.paths.push(partial.clone());
        inner
            .dir
            .write_small(&partial, &bytes)
            .map_err(|e| step(inner, 7, disk, e))?;
        let growing = &disk.growing;
        entries.push(DiskEntry::new(growing.disk(), growing.stem(), &bytes));
        records.push(Arc::new(record));
    }

    // Step 8: names.
    for disk in disks.iter_mut() {
        for part in Part::ALL {
            let (from, to) = (disk.growing.partial_path(part), disk.growing.path(part));
            inner
                .dir
                .rename(&from, &to)
                .map_err(|e| step(inner, 8, disk, e))?;
            made.renamed(&from, to);
            if part == Part::Image {
                disk.growing.finished();
            }
        }
        inner
            .dir
            .sync_dir(&disk_dir(vm, disk.growing.disk()))
            .map_err(|e| step(inner, 8, disk, e))?;
    }

    // Step 9: the restore point.
    let manifest = manifest_of(inner, disks, entries, points.next_sequence(), sealed_at)?;
    let point = seal_point(inner, &mut book, &points, manifest, records, made)?;
    for disk in disks {
        book.leave(disk.growing.ticket());
    }
    Ok(point)
}

/// Step 9, once the files of all disks have their names: the manifest, which makes them a point.
pub(super) fn seal_point(
    inner: &Inner,
    book: &mut VmBook,
    points: &VmPoints,
    manifest: PointManifest,
    records: Vec<Arc<DiskRecord>>,
    made: &mut Made,
) -> Result<Arc<RestorePoint>> {
    let (vm, id) = (manifest.vm_id, manifest.backup_id.clone());
    let bytes = manifest.encode()?;
    let (path, partial) = manifest_paths(inner, vm, &id);
    let step_9 = |e| inner.io(&format!("step 9 of the seal of {id}"), e);
    made.paths.push(partial.clone());
    inner.dir.write_small(&partial, &bytes).map_err(step_9)?;
    if let Err(e) = inner.dir.rename(&partial, &path) {
        if nothing_there(inner, &path) {
            return Err(step_9(e));
        }
        made.in_doubt = true;
        return Err(book.doubt(&id));
    }
    if inner.dir.sync_dir(&points_dir(vm)).is_err() {
        made.in_doubt = true;
        return Err(book.doubt(&id));
    }

    // It exists. What follows cannot fail.
    let point = Arc::new(RestorePoint {
        manifest,
        disks: records,
    });
    let mut all = points.all().to_vec();
    all.push(Arc::clone(&point));
    book.set_points(VmPoints::new(all, points.damaged().to_vec()));
    Ok(point)
}

fn step(inner: &Inner, number: u32, disk: &PreparedDisk, e: io::Error) -> Error {
    let (id, disk) = (disk.growing.backup_id(), disk.growing.disk());
    inner.io(
        &format!("step {number} of the seal of {id}, disk {disk}"),
        e,
    )
}

/// Whether this name is certainly free.
fn nothing_there(inner: &Inner, path: &str) -> bool {
    let opened = inner.dir.open(path, Create::OpenRead);
    opened.is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// One repository, one job, one VM, each disk once, and each image what it should be.
fn check_draft(inner: &Inner, disks: &[PreparedDisk]) -> Result<()> {
    let wrong = |why: String| Err(Error::new(ErrorKind::WrongState, why));
    for pair in disks.windows(2) {
        if let [a, b] = pair {
            let (a, b) = (&a.growing, &b.growing);
            if a.backup_id() != b.backup_id() || a.vm() != b.vm() || a.disk() == b.disk() {
                return wrong(format!(
                    "{} cannot hold disk {} too",
                    a.backup_id(),
                    b.disk()
                ));
            }
        }
    }
    for disk in disks {
        let growing = &disk.growing;
        if !growing.belongs_to(inner) {
            return wrong(format!(
                "{} was begun in another repository",
                growing.backup_id()
            ));
        }
        check_image(inner, disk)?;
    }
    Ok(())
}

/// The image names its parent, and has the size and cluster size that the record will say.
fn check_image(inner: &Inner, disk: &PreparedDisk) -> Result<()> {
    let growing = &disk.growing;
    let at = format!(
        "the image of disk {} of {}",
        growing.disk(),
        growing.backup_id()
    );
    let io = |e| inner.io(&format!("reading {at}"), e);
    let len = growing.file().len().map_err(io)?;
    let mut first = vec![0; disk.cluster.bytes_usize()];
    growing.file().read_at_blocking(0, &mut first).map_err(io)?;
    let header = Header::parse(&first, len)?;
    let backing = header.backing.as_ref().map(|b| b.name.as_str());
    let right = len == disk.file_len
        && header.cluster == disk.cluster
        && header.virtual_size == image_size(growing.virtual_size())
        && backing == growing.backing();
    if right {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::WrongState,
        format!(
            "{at} has {len} bytes, clusters of {}, a disk of {} bytes over {backing:?}; \
             expected were {}, {}, {} over {:?}",
            header.cluster.bytes(),
            header.virtual_size,
            disk.file_len,
            disk.cluster.bytes(),
            image_size(growing.virtual_size()),
            growing.backing()
        ),
    ))
}

/// Every disk that the job began is here.
fn check_complete(book: &VmBook, disks: &[PreparedDisk]) -> Result<()> {
    for writer in &book.writers {
        let job = disks.first().map(|d| d.growing.backup_id());
        let here = disks.iter().any(|d| d.growing.ticket() == writer.ticket);
        if job == Some(&writer.job) && !here {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("disk {} of {} is not complete", writer.disk, writer.job),
            ));
        }
    }
    Ok(())
}

fn write_sums(inner: &Inner, disk: &PreparedDisk, made: &mut Made) -> Result<ChecksumsRef> {
    let partial = disk.growing.partial_path(Part::Checksums);
    let file = inner
        .dir
        .open(&partial, Create::New)
        .map_err(|e| step(inner, 7, disk, e))?;
    made.paths.push(partial);
    let name = disk.growing.stem().file(Part::Checksums);
    write_checksums(&*file, &name, disk.cluster, disk.file_len, &*disk.checksums)
}

fn record_of(
    inner: &Inner,
    disk: &PreparedDisk,
    checksums: ChecksumsRef,
    sequence: Sequence,
) -> DiskRecord {
    let growing = &disk.growing;
    let (begun, decision) = (growing.begun(), growing.decision());
    let id = growing.backup_id();
    DiskRecord {
        backup_id: id.clone(),
        repository_id: inner.id,
        vm_id: growing.vm(),
        vm_name: begun.vm_name.clone(),
        context_id: begun.context_id.clone(),
        disk: growing.disk(),
        device_key: begun.request.device_key.clone(),
        sequence,
        requested_kind: decision.requested,
        kind: decision.kind,
        reason: decision.reason.code().into(),
        reason_detail: decision.reason.to_string(),
        parent: decision.parent.as_ref().map(|p| p.link.clone()),
        base_token: decision.parent.as_ref().map(|p| p.token.clone()),
        token: disk
            .token
            .clone()
            .unwrap_or_else(|| ChangeToken::of_backup(id)),
        virtual_size: growing.virtual_size(),
        cluster_size: disk.cluster.bytes(),
        counts: disk.counts,
        image: ImageRef {
            file: growing.stem().file(Part::Image),
            len: disk.file_len,
        },
        checksums,
        point_disks: None,
        started_at: begun.started_at,
        completed_at: disk.completed_at,
        software: inner.options.software.clone(),
        unknown: BTreeMap::new(),
    }
}

fn manifest_of(
    inner: &Inner,
    disks: &[PreparedDisk],
    entries: Vec<DiskEntry>,
    sequence: Sequence,
    sealed_at: Timestamp,
) -> Result<PointManifest> {
    let none = || Error::new(ErrorKind::Invalid, "a restore point without a disk");
    let begun = disks.first().ok_or_else(none)?.growing.begun();
    let decisions = || disks.iter().map(|d| d.growing.decision());
    Ok(PointManifest {
        backup_id: begun.backup_id.clone(),
        repository_id: inner.id,
        vm_id: begun.request.vm,
        vm_name: begun.vm_name.clone(),
        context_id: begun.context_id.clone(),
        sequence,
        requested_kind: kind_together(decisions().map(|d| d.requested)),
        kind: kind_together(decisions().map(|d| d.kind)),
        disks: entries,
        started_at: begun.started_at,
        sealed_at,
        software: inner.options.software.clone(),
        unknown: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests;
