//! What a start does before any listener opens: ends what a crash left half done.
//!
//! It removes by itself only unfinished files that carry this repository's id and a job that the
//! catalog knows, each after its exclusive lock is held (the kernel may finish the old process's
//! writes for a moment). It goes on with deletions that were begun. A finished image that no
//! manifest names goes to quarantine and is reported; it is never unlinked. Where a manifest
//! cannot be read nobody knows what it names, so nothing of that VM is moved.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use super::backup_id::BackupId;
use super::book::load;
use super::delete::{hold_images, read_manifest, unlink};
use super::ids::{DiskNumber, VmId};
use super::layout::{
    FoundInDisk, FoundInPoints, Part, PartialName, QUARANTINE_DIR, deleting_path, disk_dir,
    disk_name, manifest_path, parse_disk_name, points_dir, vm_dir,
};
use super::points::{DamagedPoint, VmPoints};
use super::store::{Inner, Repository, lock};
use crate::storage::{Create, Entry, EntryKind, LockKind};
use crate::{ErrorKind, Result};

/// How long a lock of a process that just ended is waited for.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Unfinished files that were removed.
    pub removed: Vec<Found>,
    /// Deletions that were ended.
    pub deleted: Vec<(VmId, BackupId)>,
    /// Finished files without a restore point, and where they are now.
    pub quarantined: Vec<Found>,
    /// What was left as it is, and why.
    pub left: Vec<Found>,
    /// Restore points that cannot be read.
    pub damaged: Vec<(VmId, DamagedPoint)>,
    /// Files that a sealed restore point names and that are not there.
    pub missing: Vec<String>,
    /// VMs that could not be looked at, and why.
    pub failed: Vec<(VmId, String)>,
}

/// A file that recovery met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is (or was, if removed).
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What is to be said about it.
    pub note: String,
}

impl RecoveryReport {
    /// Whether a person should look at it.
    pub fn needs_attention(&self) -> bool {
        !(self.quarantined.is_empty()
            && self.left.is_empty()
            && self.damaged.is_empty()
            && self.missing.is_empty()
            && self.failed.is_empty())
    }
}

impl Repository {
    /// Ends what a crash left half done. `known_jobs` are those of the catalog; `lock_wait` is
    /// usually [`LOCK_WAIT`]. One VM's trouble does not keep the others from being looked at.
    pub fn recover(
        &self,
        known_jobs: &BTreeSet<BackupId>,
        lock_wait: Duration,
    ) -> Result<RecoveryReport> {
        let mut report = RecoveryReport::default();
        let deadline = Instant::now() + lock_wait;
        for vm in self.vms()? {
            let mut visit = Visit {
                inner: &self.inner,
                vm,
                known_jobs,
                deadline,
                running: BTreeSet::new(),
                report: &mut report,
            };
            if let Err(e) = visit.run() {
                report.failed.push((vm, e.to_string()));
            }
        }
        Ok(report)
    }

    /// Removes the unfinished files of a job that has ended, as recovery would. Answers those that
    /// cannot be removed now, and why; empty where nothing of the job is left.
    pub fn remove_unfinished(&self, vm: VmId, job: &BackupId) -> Result<Vec<Found>> {
        let book = self.inner.book(vm);
        let book = lock(&book);
        let mut report = RecoveryReport::default();
        let mut visit = Visit {
            inner: &self.inner,
            vm,
            known_jobs: &BTreeSet::from([job.clone()]),
            deadline: Instant::now(),
            running: book.writers.iter().map(|w| w.job.clone()).collect(),
            report: &mut report,
        };
        visit.job(job)?;
        Ok(report.left)
    }
}

struct Visit<'a> {
    inner: &'a Inner,
    vm: VmId,
    known_jobs: &'a BTreeSet<BackupId>,
    deadline: Instant,
    /// Jobs that are being written by this very process.
    running: BTreeSet<BackupId>,
    report: &'a mut RecoveryReport,
}

impl Visit<'_> {
    fn run(&mut self) -> Result<()> {
        let book = self.inner.book(self.vm);
        let mut book = lock(&book);
        self.running = book.writers.iter().map(|w| w.job.clone()).collect();
        self.sync_names()?;
        let all_deleted = self.end_deletions()?;
        let points = load(&*self.inner.dir, self.vm)?;
        let damaged = points.damaged().iter();
        self.report
            .damaged
            .extend(damaged.map(|d| (self.vm, d.clone())));
        let may_move = all_deleted && points.damaged().is_empty();
        self.manifests()?;
        let vm_dir = vm_dir(self.vm);
        let entries = self.inner.dir.list(&vm_dir);
        let entries = entries.map_err(|e| self.inner.io(&format!("listing {vm_dir}"), e))?;
        for entry in entries {
            if let (Some(disk), EntryKind::Directory) = (parse_disk_name(&entry.name), entry.kind) {
                self.disk(disk, &points, may_move)?;
            }
        }
        book.trust();
        Ok(())
    }

    /// What is seen now may be the last process's work in the page cache. Nothing is built on it,
    /// and nothing is unlinked because of it, before the names are durable.
    fn sync_names(&self) -> Result<()> {
        let vm_dir = vm_dir(self.vm);
        let entries = self.inner.dir.list(&vm_dir);
        let entries = entries.map_err(|e| self.inner.io(&format!("listing {vm_dir}"), e))?;
        let below = entries.iter().filter(|e| e.kind == EntryKind::Directory);
        let below = below.map(|e| format!("{vm_dir}/{}", e.name));
        for dir in below.chain([vm_dir.clone(), String::new()]) {
            let synced = self.inner.dir.sync_dir(&dir);
            synced.map_err(|e| self.inner.io(&format!("syncing {dir:?}"), e))?;
        }
        Ok(())
    }

    /// Goes on with deletions; says whether none is left.
    fn end_deletions(&mut self) -> Result<bool> {
        let mut all = true;
        for id in self.in_points(|found| match found {
            FoundInPoints::Deleting(id) => Some(id),
            _ => None,
        })? {
            let path = deleting_path(self.vm, &id);
            // Where a rename is a link and an unlink, a crash between them leaves both names: the
            // point was never un-committed, and stays.
            let manifest = manifest_path(self.vm, &id);
            let twice = match self.inner.dir.open(&manifest, Create::OpenRead) {
                Ok(_) => true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                Err(e) => return Err(self.inner.io(&format!("opening {manifest}"), e)),
            };
            if twice {
                let undone = self.inner.dir.remove_file(&path);
                undone.map_err(|e| self.inner.io(&format!("removing {path}"), e))?;
                let dir = points_dir(self.vm);
                let synced = self.inner.dir.sync_dir(&dir);
                synced.map_err(|e| self.inner.io(&format!("syncing {dir}"), e))?;
                continue;
            }
            let manifest = read_manifest(&*self.inner.dir, &path)?;
            // An unreadable mark names no files: they are nobody's now, and quarantine finds them.
            let held = match manifest.as_ref() {
                Some(manifest) => hold_images(self.inner, self.vm, manifest).map(Some),
                None => Ok(None),
            };
            match held {
                Ok(held) => {
                    unlink(self.inner, self.vm, &id, manifest.as_ref())?;
                    drop(held);
                    self.report.deleted.push((self.vm, id));
                }
                Err(e) if e.kind == ErrorKind::Busy => {
                    all = false;
                    self.leave(path, 0, format!("its deletion waits: {e}"));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Removes unfinished manifests.
    fn manifests(&mut self) -> Result<()> {
        let partials = self.in_points(|found| match found {
            FoundInPoints::Unfinished(partial) => Some(partial),
            _ => None,
        })?;
        let dir = points_dir(self.vm);
        for partial in partials {
            self.unfinished(&dir, &partial)?;
        }
        Ok(())
    }

    /// Removes the unfinished files of one job.
    fn job(&mut self, job: &BackupId) -> Result<()> {
        let vm_dir = vm_dir(self.vm);
        let mut dirs = vec![points_dir(self.vm)];
        for entry in self.list(&vm_dir)? {
            if let (Some(disk), EntryKind::Directory) = (parse_disk_name(&entry.name), entry.kind) {
                dirs.push(disk_dir(self.vm, disk));
            }
        }
        for dir in dirs {
            for entry in self.list(&dir)? {
                let partial = match FoundInDisk::parse(&entry.name) {
                    FoundInDisk::Unfinished(partial) => Some(partial),
                    _ => match FoundInPoints::parse(&entry.name) {
                        FoundInPoints::Unfinished(partial) => Some(partial),
                        _ => None,
                    },
                };
                if let Some(partial) = partial.filter(|p| p.job == *job) {
                    self.unfinished(&dir, &partial)?;
                }
            }
        }
        Ok(())
    }

    /// What is in a directory; nothing where it is not there.
    fn list(&self, dir: &str) -> Result<Vec<Entry>> {
        match self.inner.dir.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|e| self.inner.io(&format!("listing {dir}"), e)),
        }
    }

    fn in_points<T>(&self, pick: impl Fn(FoundInPoints) -> Option<T>) -> Result<Vec<T>> {
        let dir = points_dir(self.vm);
        let entries = self.list(&dir)?;
        let names = entries.iter().map(|e| FoundInPoints::parse(&e.name));
        Ok(names.filter_map(pick).collect())
    }

    fn disk(&mut self, disk: DiskNumber, points: &VmPoints, may_move: bool) -> Result<()> {
        let dir = disk_dir(self.vm, disk);
        let entries = self.inner.dir.list(&dir);
        let entries = entries.map_err(|e| self.inner.io(&format!("listing {dir}"), e))?;
        let names: BTreeSet<&str> = entries.iter().map(|e| e.name.as_str()).collect();

        let mut sealed = BTreeSet::new();
        for record in points.of_disk(disk) {
            let stem = record.stem();
            for file in Part::ALL
                .iter()
                .filter_map(|p| Some(stem.as_ref()?.file(*p)))
            {
                if !names.contains(file.as_str()) {
                    self.report.missing.push(format!("{dir}/{file}"));
                }
                sealed.insert(file);
            }
        }
        for entry in &entries {
            match FoundInDisk::parse(&entry.name) {
                _ if entry.kind != EntryKind::File => {}
                FoundInDisk::Unfinished(partial) => self.unfinished(&dir, &partial)?,
                FoundInDisk::Finished(..) if sealed.contains(&entry.name) => {}
                FoundInDisk::Finished(..) if may_move => {
                    self.quarantine(disk, &entry.name)?;
                }
                FoundInDisk::Finished(..) => {
                    let path = format!("{dir}/{}", entry.name);
                    let bytes = self.len_of(&path)?;
                    let note = "no readable manifest names it, but some cannot be read";
                    self.leave(path, bytes, note.into());
                }
                FoundInDisk::Foreign => {}
            }
        }
        Ok(())
    }

    /// Removes an unfinished file, where it is ours to remove.
    fn unfinished(&mut self, dir: &str, name: &PartialName) -> Result<()> {
        let path = format!("{dir}/{name}");
        if self.running.contains(&name.job) {
            return Ok(());
        }
        let bytes = self.len_of(&path)?;
        if name.repository != self.inner.id {
            let note = format!("it was begun in repository {}", name.repository);
            self.leave(path, bytes, note);
            return Ok(());
        }
        if !self.known_jobs.contains(&name.job) {
            self.leave(
                path,
                bytes,
                format!("the catalog knows no job {}", name.job),
            );
            return Ok(());
        }
        let io = |e| self.inner.io(&format!("removing {path}"), e);
        let image = matches!(name.becomes, Some((_, Part::Image)));
        if image && !self.free(&path).map_err(io)? {
            self.leave(path, bytes, "another process still has it open".into());
            return Ok(());
        }
        self.inner.dir.remove_file(&path).map_err(io)?;
        self.inner.dir.sync_dir(dir).map_err(io)?;
        self.report.removed.push(Found {
            path,
            bytes,
            note: format!("an unfinished file of {}", name.job),
        });
        Ok(())
    }

    /// Waits until nobody holds the file.
    fn free(&self, path: &str) -> io::Result<bool> {
        let file = self.inner.dir.open(path, Create::OpenWrite)?;
        loop {
            match file.lock(LockKind::Exclusive) {
                Ok(()) => {
                    file.unlock()?;
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= self.deadline {
                        return Ok(false);
                    }
                    std::thread::sleep(LOCK_POLL);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves a finished file that no restore point names to where a person finds it.
    fn quarantine(&mut self, disk: DiskNumber, name: &str) -> Result<()> {
        let from_dir = disk_dir(self.vm, disk);
        let to_dir = format!("{QUARANTINE_DIR}/{}/{}", self.vm, disk_name(disk));
        let from = format!("{from_dir}/{name}");
        let io = |e| self.inner.io(&format!("moving {from} to quarantine"), e);
        let bytes = self.len_of(&from)?;
        let dir = &self.inner.dir;
        dir.create_dirs(&to_dir).map_err(io)?;
        let there = dir.list(&to_dir).map_err(io)?;
        // The same name may be there from another time: it keeps its place.
        let mut free = (1..).map(|n| match n {
            1 => name.to_owned(),
            n => format!("{name}.{n}"),
        });
        let free = free.find(|name| !there.iter().any(|e| e.name == *name));
        let to = format!("{to_dir}/{}", free.unwrap_or_else(|| name.to_owned()));
        dir.rename(&from, &to).map_err(io)?;
        dir.sync_dir(&to_dir).map_err(io)?;
        dir.sync_dir(&from_dir).map_err(io)?;
        self.report.quarantined.push(Found {
            path: to,
            bytes,
            note: format!("was {from}, which no restore point names"),
        });
        Ok(())
    }

    fn len_of(&self, path: &str) -> Result<u64> {
        let len = self.inner.dir.open(path, Create::OpenRead);
        let len = len.and_then(|file| file.len());
        len.map_err(|e| self.inner.io(&format!("looking at {path}"), e))
    }

    fn leave(&mut self, path: String, bytes: u64, note: String) {
        self.report.left.push(Found { path, bytes, note });
    }
}

#[cfg(test)]
pub(super) mod tests;
