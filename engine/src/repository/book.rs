//! The book of one VM: what is sealed, as last read, and which of its disks are being written.
//!
//! Invariant: whoever begins, seals, deletes or opens layers holds the book's lock, so a parent
//! cannot go while somebody builds on it, and one disk has one writer.

use std::io;
use std::sync::Arc;

use super::backup_id::BackupId;
use super::ids::{DiskNumber, VmId};
use super::layout::{FoundInPoints, manifest_path, points_dir, vm_dir};
use super::manifest::{MAX_MANIFEST_BYTES, PointManifest};
use super::points::{DamagedPoint, RestorePoint, VmPoints};
use super::sidecar::{DiskRecord, MAX_SIDECAR_BYTES};
use super::store::Inner;
use crate::storage::Directory;
use crate::{Error, ErrorKind, Result};

/// One VM's state in this process.
#[derive(Debug)]
pub(super) struct VmBook {
    vm: VmId,
    points: Option<Arc<VmPoints>>,
    pub(super) writers: Vec<Writer>,
    next_ticket: u64,
    /// A rename of which nobody knows whether it is on stable storage.
    in_doubt: Option<BackupId>,
}

/// A disk that is being written.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) ticket: u64,
    pub(super) job: BackupId,
    pub(super) disk: DiskNumber,
    pub(super) parent: Option<BackupId>,
}

impl VmBook {
    pub(super) fn new(vm: VmId) -> Self {
        Self {
            vm,
            points: None,
            writers: Vec::new(),
            next_ticket: 0,
            in_doubt: None,
        }
    }

    /// What is sealed, read from the manifests where that was not done yet.
    pub(super) fn points(&mut self, inner: &Inner) -> Result<Arc<VmPoints>> {
        if let Some(points) = &self.points {
            return Ok(Arc::clone(points));
        }
        let points = Arc::new(load(&*inner.dir, self.vm)?);
        self.points = Some(Arc::clone(&points));
        Ok(points)
    }

    /// What is sealed from now on.
    pub(super) fn set_points(&mut self, points: VmPoints) {
        self.points = Some(Arc::new(points));
    }

    /// Forgets what was read: the next one to ask reads again.
    pub(super) fn forget_points(&mut self) {
        self.points = None;
    }

    /// Refuses changes after a commit or delete of unknown outcome.
    pub(super) fn refuse_in_doubt(&self) -> Result<()> {
        match &self.in_doubt {
            None => Ok(()),
            Some(id) => Err(in_doubt(id)),
        }
    }

    /// From now on nothing of this VM changes until recovery has looked at what is there.
    pub(super) fn doubt(&mut self, id: &BackupId) -> Error {
        self.in_doubt = Some(id.clone());
        in_doubt(id)
    }

    /// Recovery has looked.
    pub(super) fn trust(&mut self) {
        self.in_doubt = None;
        self.points = None;
    }

    pub(super) fn writer_of(&self, disk: DiskNumber) -> Option<&Writer> {
        self.writers.iter().find(|w| w.disk == disk)
    }

    pub(super) fn enter(
        &mut self,
        job: BackupId,
        disk: DiskNumber,
        parent: Option<BackupId>,
    ) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writers.push(Writer {
            ticket,
            job,
            disk,
            parent,
        });
        ticket
    }

    pub(super) fn leave(&mut self, ticket: u64) {
        self.writers.retain(|w| w.ticket != ticket);
    }
}

fn in_doubt(id: &BackupId) -> Error {
    Error::new(
        ErrorKind::InDoubt,
        format!("storage failed while {id} was being committed: whether it took is not known"),
    )
}

/// Reads a VM's manifests and sidecars. A damaged one is part of the answer; storage that fails is
/// an error, so that nothing is taken for absent that was merely not readable.
pub(super) fn load(dir: &dyn Directory, vm: VmId) -> Result<VmPoints> {
    let entries = match dir.list(&points_dir(vm)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(VmPoints::default()),
        Err(e) => return Err(Error::io(format!("listing {}", points_dir(vm)), e)),
    };
    let mut points = Vec::new();
    let mut damaged = Vec::new();
    for entry in entries {
        let FoundInPoints::Manifest(backup_id) = FoundInPoints::parse(&entry.name) else {
            continue;
        };
        let mut sequence = None;
        let read = load_manifest(dir, vm, &backup_id).and_then(|manifest| {
            sequence = Some(manifest.sequence);
            load_disks(dir, manifest)
        });
        match read {
            Ok(point) => points.push(Arc::new(point)),
            Err(e) if about_content(&e) => damaged.push(DamagedPoint {
                backup_id,
                sequence,
                why: e.to_string(),
            }),
            Err(e) => return Err(e),
        }
    }
    Ok(VmPoints::new(points, damaged))
}

fn about_content(e: &Error) -> bool {
    matches!(
        e.kind,
        ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::NotFound
    )
}

fn load_manifest(dir: &dyn Directory, vm: VmId, id: &BackupId) -> Result<PointManifest> {
    let path = manifest_path(vm, id);
    let bytes = read(dir, &path, MAX_MANIFEST_BYTES)?;
    let manifest = PointManifest::decode(&path, &bytes)?;
    if manifest.vm_id != vm || manifest.backup_id != *id {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("{path} is the manifest of {}", manifest.backup_id),
        ));
    }
    Ok(manifest)
}

fn load_disks(dir: &dyn Directory, manifest: PointManifest) -> Result<RestorePoint> {
    let mut disks = Vec::with_capacity(manifest.disks.len());
    for entry in &manifest.disks {
        let path = format!("{}/{}", vm_dir(manifest.vm_id), entry.sidecar);
        let bytes = read(dir, &path, MAX_SIDECAR_BYTES)?;
        if crc32fast::hash(&bytes) != entry.crc32 {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!(
                    "{path} is not the sidecar that {} sealed",
                    manifest.backup_id
                ),
            ));
        }
        let record = DiskRecord::decode(&path, &bytes)?;
        let same = record.vm_id == manifest.vm_id
            && record.backup_id == manifest.backup_id
            && record.disk == entry.disk
            && record.stem() == entry.stem();
        if !same {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("{path} does not describe what lies beside it"),
            ));
        }
        disks.push(Arc::new(record));
    }
    Ok(RestorePoint { manifest, disks })
}

fn read(dir: &dyn Directory, path: &str, limit: usize) -> Result<Vec<u8>> {
    dir.read_small(path, limit).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => Error::with(ErrorKind::Damaged, "a file is too large", e),
        _ => Error::io(format!("reading {path}"), e),
    })
}
