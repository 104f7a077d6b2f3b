//! A disk of a restore point while it is being written: an unfinished file under an exclusive
//! lock, whose name says whose it is.
//!
//! Invariant: the file's name, lock and place as the disk's only writer are given back together:
//! by the commit, by [`Growing::abort`], or on drop.

use std::sync::Arc;

use jiff::Timestamp;

use super::backup_id::BackupId;
use super::guard::{Decision, DiskRequest};
use super::ids::{ContextId, DiskNumber, VmId};
use super::layout::{Part, PartialName, Stem, disk_dir, manifest_path, points_dir};
use super::space::{self, SpaceState};
use super::store::{Inner, Repository, decide_whole, lock};
use crate::storage::{Create, File, LockKind};
use crate::{Error, ErrorKind, Result};

/// What begins.
#[derive(Debug, Clone)]
pub struct BeginDisk {
    /// The restore point, which is also the job.
    pub backup_id: BackupId,
    /// What is asked for the disk.
    pub request: DiskRequest,
    /// What the VM is called now.
    pub vm_name: String,
    /// The VM's context id.
    pub context_id: Option<ContextId>,
    /// Now.
    pub started_at: Timestamp,
}

/// A disk that is being written.
#[derive(Debug)]
pub struct Growing {
    inner: Arc<Inner>,
    ticket: u64,
    file: Arc<dyn File>,
    begun: BeginDisk,
    decision: Decision,
    stem: Stem,
    space: SpaceState,
    /// Whether the file is nobody's but ours to remove.
    unfinished: bool,
}

impl Repository {
    /// Begins a disk of a restore point: decides what it builds on, and makes its unfinished file.
    ///
    /// The directories are durable before this returns, so that everything later only syncs its
    /// own directory.
    pub fn begin_disk(&self, begin: BeginDisk) -> Result<Growing> {
        let inner = &self.inner;
        let (vm, disk) = (begin.request.vm, begin.request.disk);
        let space = space::refuse_when_exhausted(inner)?;
        let book = inner.book(vm);
        let mut book = lock(&book);
        book.refuse_in_doubt()?;
        if let Some(writer) = book.writer_of(disk) {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("disk {disk} of this VM is being written by {}", writer.job),
            ));
        }
        let points = book.points(inner)?;
        match points.get(&begin.backup_id) {
            Err(e) if e.kind == ErrorKind::NotFound => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("{} exists already", begin.backup_id),
                ));
            }
        }
        let decision = decide_whole(inner, &points, &begin.request)?;
        let (stem, file) = make_file(inner, &begin, &decision)?;
        let parent = decision.parent.as_ref().map(|p| p.link.backup_id.clone());
        let ticket = book.enter(begin.backup_id.clone(), disk, parent);
        Ok(Growing {
            inner: Arc::clone(inner),
            ticket,
            file,
            begun: begin,
            decision,
            stem,
            space,
            unfinished: true,
        })
    }
}

fn make_file(
    inner: &Inner,
    begin: &BeginDisk,
    decision: &Decision,
) -> Result<(Stem, Arc<dyn File>)> {
    let (vm, disk) = (begin.request.vm, begin.request.disk);
    let dir = disk_dir(vm, disk);
    let io = |e| inner.io(&format!("beginning disk {disk} of {}", begin.backup_id), e);
    inner.dir.create_dirs(&dir).map_err(io)?;
    inner.dir.create_dirs(&points_dir(vm)).map_err(io)?;
    let names = inner.dir.list(&dir).map_err(io)?;
    let stem = Stem::new(decision.kind, begin.started_at, |stem| {
        let own = |name: &str| name.strip_prefix(stem).is_some_and(|n| n.starts_with('.'));
        names.iter().any(|entry| own(&entry.name))
    })?;
    let path = partial_path(inner, begin, &stem, Part::Image);
    let file = inner.dir.open(&path, Create::New).map_err(io)?;
    if let Err(e) = file.lock(LockKind::Exclusive) {
        let _ = inner.dir.remove_file(&path);
        return Err(io(e));
    }
    Ok((stem, file))
}

fn partial_path(inner: &Inner, begin: &BeginDisk, stem: &Stem, part: Part) -> String {
    let name = PartialName {
        becomes: Some((stem.clone(), part)),
        job: begin.backup_id.clone(),
        repository: inner.id,
    };
    format!("{}/{name}", disk_dir(begin.request.vm, begin.request.disk))
}

impl Growing {
    /// The file to write into: new, empty, locked exclusively.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The restore point, which is also the job.
    pub fn backup_id(&self) -> &BackupId {
        &self.begun.backup_id
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.begun.request.vm
    }

    /// The disk.
    pub fn disk(&self) -> DiskNumber {
        self.begun.request.disk
    }

    /// What is done, on what, and why.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The disk's size in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.begun.request.size
    }

    /// The backing file that the image has to name; `None` for a full.
    pub fn backing(&self) -> Option<&str> {
        let parent = self.decision.parent.as_ref()?;
        Some(&parent.link.file)
    }

    /// Where the image will lie once sealed, relative to the repository.
    pub fn locator(&self) -> String {
        self.path(Part::Image)
    }

    /// Free space when it began; [`SpaceVerdict::Low`](super::SpaceVerdict) is worth a warning.
    pub fn space(&self) -> SpaceState {
        self.space
    }

    /// Gives the disk up: removes what this job made of it, and lets others write the disk.
    pub fn abort(mut self) -> Result<()> {
        self.remove_unfinished()
    }

    pub(super) fn begun(&self) -> &BeginDisk {
        &self.begun
    }

    pub(super) fn stem(&self) -> &Stem {
        &self.stem
    }

    pub(super) fn belongs_to(&self, inner: &Inner) -> bool {
        std::ptr::eq(&raw const *self.inner, inner)
    }

    pub(super) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Where a part lies once it is finished.
    pub(super) fn path(&self, part: Part) -> String {
        format!(
            "{}/{}",
            disk_dir(self.vm(), self.disk()),
            self.stem.file(part)
        )
    }

    /// Where a part lies while it is not.
    pub(super) fn partial_path(&self, part: Part) -> String {
        partial_path(&self.inner, &self.begun, &self.stem, part)
    }

    /// The commit has taken the file over, or has removed it: only the lock is left to give back.
    pub(super) fn finished(&mut self) {
        self.unfinished = false;
    }

    fn remove_unfinished(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.unfinished) {
            return Ok(());
        }
        let path = self.partial_path(Part::Image);
        // Its space comes back now, and not when the last connection has let go of it: what writes
        // down why the job failed may need it. Where this fails, removing does the same later.
        let _ = self.file.set_len(0);
        match self.inner.dir.remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(self.inner.io(&format!("removing {path}"), e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next start's recovery.
        let _ = self.remove_unfinished();
        // Explicit: a descriptor that a ring still knows would keep the lock.
        let _ = self.file.unlock();
        let book = self.inner.book(self.vm());
        lock(&book).leave(self.ticket);
    }
}

/// The manifest's path, and that of its unfinished form.
pub(super) fn manifest_paths(inner: &Inner, vm: VmId, id: &BackupId) -> (String, String) {
    let partial = PartialName {
        becomes: None,
        job: id.clone(),
        repository: inner.id,
    };
    (
        manifest_path(vm, id),
        format!("{}/{partial}", points_dir(vm)),
    )
}
