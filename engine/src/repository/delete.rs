//! Deleting restore points.
//!
//! Per point, newest first, so that what is left is whole at every moment:
//! 1. nobody reads or writes its images: the exclusive lock is taken on each (unlinking would not
//!    ask);
//! 2. the manifest is renamed to `.deleting`, directory synced: the point exists no more;
//! 3. images, checksums, sidecars are unlinked, directories synced;
//! 4. the notes and the mark are unlinked, directory synced.
//!
//! A crash between 2 and 4 leaves the mark; recovery goes on from there. The head moves back by
//! itself: it is whatever is newest among what is left.

use std::io;
use std::sync::Arc;

use super::backup_id::BackupId;
use super::book::VmBook;
use super::guard::Head;
use super::ids::{BackupKind, ChangeToken, DiskNumber, VmId};
use super::layout::{
    Part, Stem, deleting_path, disk_dir, manifest_path, points_dir, state_path, vm_dir,
};
use super::manifest::{MAX_MANIFEST_BYTES, PointManifest};
use super::points::{DamagedPoint, VmPoints};
use super::space;
use super::store::{Inner, Repository, lock};
use crate::storage::{Create, Directory, EntryKind, File, LockKind};
use crate::{Error, ErrorKind, Result};

/// What is to be deleted.
#[derive(Debug, Clone)]
pub struct DeletePoint {
    /// The VM.
    pub vm: VmId,
    /// The restore point.
    pub backup_id: BackupId,
    /// Also what builds on it; otherwise that is a refusal.
    pub with_dependents: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was (or would be) deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The points, in the order of their deletion: newest first.
    pub points: Vec<DeletedPoint>,
    /// Bytes of all their files.
    pub bytes: u64,
    /// Disks whose newest point becomes another one.
    pub heads: Vec<MovedHead>,
    /// Whether nothing was done.
    pub dry_run: bool,
}

/// A restore point that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedPoint {
    /// Its id.
    pub backup_id: BackupId,
    /// What it was; not known of one that could not be read.
    pub kind: Option<BackupKind>,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A disk whose newest point becomes another one. A mover that has already gone on to the old
/// token is refused next time, or sends a full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedHead {
    /// The disk.
    pub disk: DiskNumber,
    /// The newest point and its token from now on; none where nothing is left.
    pub to: Option<(BackupId, ChangeToken)>,
}

/// A point on its way out.
struct Victim {
    backup_id: BackupId,
    /// What its manifest says; none where it cannot be read.
    manifest: Option<PointManifest>,
    bytes: u64,
}

impl Repository {
    /// Deletes a restore point.
    pub fn delete(&self, request: &DeletePoint) -> Result<Deletion> {
        let inner = &self.inner;
        let vm = request.vm;
        let book = inner.book(vm);
        let mut book = lock(&book);
        book.refuse_in_doubt()?;
        let points = book.points(inner)?;
        let victims = victims(inner, &points, request)?;
        refuse_parents_of_writers(&book, &victims)?;
        let deletion = Deletion {
            points: victims.iter().map(Victim::told).collect(),
            bytes: victims.iter().map(|v| v.bytes).sum(),
            heads: moved_heads(&points, &victims),
            dry_run: request.dry_run,
        };
        // Step 1, for all of them: one that is in use refuses the whole request.
        let held = victims.iter().map(|victim| hold(inner, vm, victim));
        let held: Vec<Held> = held.collect::<Result<_>>()?;
        if request.dry_run {
            return Ok(deletion);
        }
        book.forget_points();
        for (victim, held) in victims.iter().zip(held) {
            mark(inner, &mut book, vm, &victim.backup_id)?;
            unlink(inner, vm, &victim.backup_id, victim.manifest.as_ref())?;
            drop(held);
        }
        if book.writers.is_empty() {
            remove_empty_dirs(&*inner.dir, vm);
        }
        space::keep_reserve(&*inner.dir);
        Ok(deletion)
    }
}

/// Removes what is empty of a VM's directories; what is not, or cannot go, stays.
fn remove_empty_dirs(dir: &dyn Directory, vm: VmId) {
    for entry in dir.list(&vm_dir(vm)).unwrap_or_default() {
        if entry.kind == EntryKind::Directory {
            let _ = dir.remove_dir(&format!("{vm}/{}", entry.name));
        }
    }
    let _ = dir.remove_dir(&vm_dir(vm));
}

impl Victim {
    fn told(&self) -> DeletedPoint {
        DeletedPoint {
            backup_id: self.backup_id.clone(),
            kind: self.manifest.as_ref().map(|m| m.kind),
            bytes: self.bytes,
        }
    }
}

/// The point and what builds on it, newest first.
fn victims(inner: &Inner, points: &VmPoints, request: &DeletePoint) -> Result<Vec<Victim>> {
    let whole = match points.get(&request.backup_id) {
        Ok(_) => true,
        Err(e) if e.kind == ErrorKind::NotFound => return Err(e),
        Err(_) => false,
    };
    let unread = points.unread_behind(&request.backup_id);
    // Damaged points go one with the other, all of them named before; a whole one does not go for
    // what only may build on it.
    if !unread.is_empty() && (whole || !request.with_dependents) {
        return Err(refuse_unread(&request.backup_id, whole, &unread));
    }
    let mut gone: Vec<&BackupId> = unread.iter().map(|d| &d.backup_id).collect();
    // Newest first, as far as that is known: names order by time.
    gone.sort_by(|a, b| b.cmp(a));
    gone.push(&request.backup_id);
    let dependents = points.dependents(&gone);
    if !dependents.is_empty() && !request.with_dependents {
        let ids: Vec<String> = dependents.iter().map(|p| p.id().to_string()).collect();
        let at = format!("{} is what {} builds on", request.backup_id, ids.join(", "));
        return Err(Error::new(ErrorKind::HasDependents(ids), at));
    }
    let ids = dependents.iter().rev().map(|p| p.id().clone());
    let ids = ids.chain(gone.into_iter().cloned());
    let victim = |backup_id: BackupId| {
        let path = manifest_path(request.vm, &backup_id);
        let manifest = read_manifest(&*inner.dir, &path)?;
        let files = manifest.iter().flat_map(|m| files(request.vm, m));
        let mut bytes = 0;
        for (_, _, path) in files {
            bytes += len_of(inner, &path)?;
        }
        Ok(Victim {
            backup_id,
            manifest,
            bytes,
        })
    };
    ids.map(victim).collect()
}

/// What may build on a point is not known while others cannot be read. The way out is named: those
/// first, and of several such all together.
fn refuse_unread(id: &BackupId, whole: bool, unread: &[&DamagedPoint]) -> Error {
    let ids: Vec<String> = unread.iter().map(|d| d.backup_id.to_string()).collect();
    let why: Vec<String> = unread
        .iter()
        .map(|d| format!("{} ({})", d.backup_id, d.why))
        .collect();
    let way = if whole {
        "mend or delete what is damaged first"
    } else {
        "with_dependents deletes all of these damaged points together, and what builds on them"
    };
    let at = format!(
        "what builds on {id} cannot be told while this cannot be read: {}; {way}",
        why.join(", ")
    );
    Error::new(ErrorKind::HasDependents(ids), at)
}

/// What a manifest says; `None` where it cannot be read as one.
pub(super) fn read_manifest(dir: &dyn Directory, path: &str) -> Result<Option<PointManifest>> {
    match dir.read_small(path, MAX_MANIFEST_BYTES) {
        Ok(bytes) => Ok(PointManifest::decode(path, &bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(e) => Err(Error::io(format!("reading {path}"), e)),
    }
}

/// The files of a point, the images first. By the names in its manifest, so that a sidecar that
/// is damaged or gone hides nothing.
fn files(vm: VmId, manifest: &PointManifest) -> Vec<(DiskNumber, Part, String)> {
    let stems = manifest.disks.iter();
    let stems: Vec<(DiskNumber, Stem)> = stems.filter_map(|d| Some((d.disk, d.stem()?))).collect();
    let of_part = |part: Part| {
        let file = move |(disk, stem): &(DiskNumber, Stem)| {
            (
                *disk,
                part,
                format!("{}/{}", disk_dir(vm, *disk), stem.file(part)),
            )
        };
        stems.iter().map(file)
    };
    Part::ALL.into_iter().flat_map(of_part).collect()
}

fn len_of(inner: &Inner, path: &str) -> Result<u64> {
    let len = inner.dir.open(path, Create::OpenRead).and_then(|f| f.len());
    match len {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other.map_err(|e| inner.io(&format!("looking at {path}"), e)),
    }
}

fn refuse_parents_of_writers(book: &VmBook, victims: &[Victim]) -> Result<()> {
    for victim in victims {
        let on_it = |parent: &Option<BackupId>| parent.as_ref() == Some(&victim.backup_id);
        if let Some(writer) = book.writers.iter().find(|w| on_it(&w.parent)) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{} is what {} builds on right now",
                    victim.backup_id, writer.job
                ),
            ));
        }
    }
    Ok(())
}

fn moved_heads(points: &VmPoints, victims: &[Victim]) -> Vec<MovedHead> {
    let gone = |id: &BackupId| victims.iter().any(|v| v.backup_id == *id);
    let kept = points.all().iter().filter(|p| !gone(p.id()));
    let damaged = points.damaged().iter().filter(|d| !gone(&d.backup_id));
    let after = VmPoints::new(kept.map(Arc::clone).collect(), damaged.cloned().collect());
    let mut moved = Vec::new();
    for (disk, _) in points.bindings() {
        let Head::At(before) = points.head(disk) else {
            continue;
        };
        if gone(&before.backup_id) {
            let to = match after.head(disk) {
                Head::At(head) => Some((head.backup_id.clone(), head.token.clone())),
                _ => None,
            };
            moved.push(MovedHead { disk, to });
        }
    }
    moved
}

/// Exclusive locks on images, given back explicitly.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<Arc<dyn File>>);

impl Drop for Held {
    fn drop(&mut self) {
        for file in &self.0 {
            // Nothing to do about a failure; the lock ends with the descriptor.
            let _ = file.unlock();
        }
    }
}

fn hold(inner: &Inner, vm: VmId, victim: &Victim) -> Result<Held> {
    let manifest = victim.manifest.as_ref();
    manifest.map_or_else(|| Ok(Held::default()), |m| hold_images(inner, vm, m))
}

/// Step 1: exclusive locks on all images of a point that are there.
pub(super) fn hold_images(inner: &Inner, vm: VmId, manifest: &PointManifest) -> Result<Held> {
    let mut held = Held::default();
    let images = files(vm, manifest).into_iter();
    for (_, _, path) in images.filter(|(_, part, _)| *part == Part::Image) {
        let busy = |why| {
            let at = format!("{} of {} is {why}", path, manifest.backup_id);
            Error::new(ErrorKind::Busy, at)
        };
        if inner.shared.in_use(&path) {
            return Err(busy("being read here"));
        }
        let file = match inner.dir.open(&path, Create::OpenWrite) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(inner.io(&format!("opening {path}"), e)),
        };
        match file.lock(LockKind::Exclusive) {
            Ok(()) => held.0.push(file),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(busy("open in another process"));
            }
            Err(e) => return Err(inner.io(&format!("locking {path}"), e)),
        }
    }
    Ok(held)
}

/// Step 2: the point exists no more.
fn mark(inner: &Inner, book: &mut VmBook, vm: VmId, id: &BackupId) -> Result<()> {
    let (from, to) = (manifest_path(vm, id), deleting_path(vm, id));
    let io = |e| inner.io(&format!("deleting {id}"), e);
    space::with_reserve(&*inner.dir, || inner.dir.rename(&from, &to)).map_err(io)?;
    // Nothing was unlinked yet: a point that comes back after a crash is whole. But it would come
    // back under what was sealed since, so nothing is until that is known.
    inner
        .dir
        .sync_dir(&points_dir(vm))
        .map_err(|_| book.doubt(id))
}

/// Steps 3 and 4. Also what recovery does with a mark that it finds.
pub(super) fn unlink(
    inner: &Inner,
    vm: VmId,
    id: &BackupId,
    manifest: Option<&PointManifest>,
) -> Result<()> {
    let dir = &*inner.dir;
    let io = |e| inner.io(&format!("deleting {id}"), e);
    let remove = |path: &str| match space::with_reserve(dir, || dir.remove_file(path)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io(e)),
        _ => Ok(()),
    };
    if let Some(manifest) = manifest {
        for (_, _, path) in files(vm, manifest) {
            remove(&path)?;
        }
        for disk in &manifest.disks {
            let disk_dir = disk_dir(vm, disk.disk);
            match dir.sync_dir(&disk_dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
                _ => {}
            }
        }
    }
    remove(&state_path(vm, id))?;
    remove(&deleting_path(vm, id))?;
    dir.sync_dir(&points_dir(vm)).map_err(io)
}

#[cfg(test)]
mod tests;
