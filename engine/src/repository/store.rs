//! An open repository: a directory that says it is one, held by one process.
//!
//! Invariant: whoever has a [`Repository`] holds its lease, so nobody else begins, seals, deletes
//! or recovers in it. What concerns one VM is serialised by that VM's book.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupId;
use super::book::VmBook;
use super::guard::{self, Decision, DiskRequest};
use super::ids::{RepositoryId, VmId};
use super::layers::open_layers;
use super::layout::{LEASE_FILE, META_DIR, QUARANTINE_DIR, REPOSITORY_FILE, REPOSITORY_NEW_FILE};
use super::points::VmPoints;
use super::sealed_json::{self, Format, moment};
use super::shared::SharedFiles;
use super::space::{self, SpaceState};
use crate::storage::{Create, Directory, EntryKind, File, LockKind};
use crate::{Error, ErrorKind, Result};

const FORMAT: Format = Format {
    name: "sendense-repository",
    version: 1,
};
const MAX_REPOSITORY_BYTES: usize = 64 << 10;
/// A fresh file system is not empty.
const LOST_FOUND: &str = "lost+found";

/// How a repository is opened.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// What its owner calls it; for messages.
    pub name: String,
    /// Which software writes into it; recorded in every restore point.
    pub software: String,
    /// Who has it open, for those who then cannot: host, process, anything that helps.
    pub owner: String,
    /// Bytes that stay free: no backup begins below. By default 1 % of the file system, at most
    /// 4 GiB.
    pub reserve: Option<u64>,
    /// Below this many free bytes beyond the reserve a warning is due. By default 4 % of the file
    /// system, at most 32 GiB.
    pub warn: Option<u64>,
    /// Now.
    pub now: Timestamp,
}

#[derive(Debug, Serialize, Deserialize)]
struct RepositoryFile {
    repository_id: RepositoryId,
    #[serde(with = "moment")]
    created_at: Timestamp,
    software: String,
}

/// A repository. Clones are the same one. All calls block.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: Arc<dyn Directory>,
    pub(super) id: RepositoryId,
    pub(super) options: RepositoryOptions,
    pub(super) shared: SharedFiles,
    books: Mutex<HashMap<VmId, Arc<Mutex<VmBook>>>>,
    lease: Arc<dyn File>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Explicit: a descriptor that a ring still knows would keep the lock. Nothing to do about
        // a failure; the lock ends with the process.
        let _ = self.lease.unlock();
    }
}

impl Repository {
    /// Opens the repository in this directory, and makes one where the directory is empty.
    pub fn open_or_create(dir: Arc<dyn Directory>, options: RepositoryOptions) -> Result<Self> {
        match find(&*dir, &options)? {
            Found::Repository(id) => Self::hold(dir, id, options),
            Found::Empty => {
                let id = create(&*dir, &options)?;
                Self::hold(dir, id, options)
            }
        }
    }

    /// Opens the repository in this directory. An empty directory is refused: it may be a mount
    /// point without its mount.
    pub fn open(dir: Arc<dyn Directory>, options: RepositoryOptions) -> Result<Self> {
        match find(&*dir, &options)? {
            Found::Repository(id) => Self::hold(dir, id, options),
            Found::Empty => Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "repository {}: the directory is empty; is its file system mounted?",
                    options.name
                ),
            )),
        }
    }

    fn hold(dir: Arc<dyn Directory>, id: RepositoryId, options: RepositoryOptions) -> Result<Self> {
        let lease = take_lease(&*dir, &options)?;
        let repository = Self {
            inner: Arc::new(Inner {
                dir,
                id,
                options,
                shared: SharedFiles::default(),
                books: Mutex::default(),
                lease,
            }),
        };
        space::keep_reserve(&*repository.inner.dir);
        Ok(repository)
    }

    /// Its id.
    pub fn id(&self) -> RepositoryId {
        self.inner.id
    }

    /// What its owner calls it.
    pub fn name(&self) -> &str {
        &self.inner.options.name
    }

    /// The directory that it lives in.
    pub fn directory(&self) -> &Arc<dyn Directory> {
        &self.inner.dir
    }

    /// Free space, and whether it is enough.
    pub fn space(&self) -> Result<SpaceState> {
        space::state(&self.inner)
    }

    /// The VMs that have a directory here.
    pub fn vms(&self) -> Result<Vec<VmId>> {
        let entries = self.inner.dir.list("");
        let entries = entries.map_err(|e| self.inner.io("listing its VMs", e))?;
        let vm = |name: &str| VmId::parse(name).ok().filter(|vm| vm.to_string() == name);
        Ok(entries
            .iter()
            .filter(|e| e.kind == EntryKind::Directory)
            .filter_map(|e| vm(&e.name))
            .collect())
    }

    /// What is sealed of a VM.
    pub fn points(&self, vm: VmId) -> Result<Arc<VmPoints>> {
        let book = self.inner.book(vm);
        let mut book = lock(&book);
        book.points(&self.inner)
    }

    /// The VM that a restore point is of, looked for among all.
    pub fn find(&self, id: &BackupId) -> Result<Option<VmId>> {
        for vm in self.vms()? {
            let points = self.points(vm)?;
            let damaged = points.damaged().iter().any(|d| d.backup_id == *id);
            if damaged || points.get(id).is_ok() {
                return Ok(Some(vm));
            }
        }
        Ok(None)
    }

    /// What a backup of this disk would be, without beginning it.
    pub fn decide(&self, request: &DiskRequest) -> Result<Decision> {
        let book = self.inner.book(request.vm);
        // Held while the parent's images are looked at, so that none is deleted in between.
        let mut book = lock(&book);
        let points = book.points(&self.inner)?;
        decide_whole(&self.inner, &points, request)
    }
}

/// The guard's decision, and whether the images that it builds on are there and are what was
/// sealed: found out now, not at the restore.
pub(super) fn decide_whole(
    inner: &Inner,
    points: &VmPoints,
    request: &DiskRequest,
) -> Result<Decision> {
    let decision = decide_on(points, inner.id, request)?;
    let Some(parent) = &decision.parent else {
        return Ok(decision);
    };
    let parent = &parent.link.backup_id;
    if !request.damaged.is_empty() {
        let lineage = points.lineage(parent, request.disk).unwrap_or_default();
        let below = |id: &BackupId| id == parent || lineage.iter().any(|r| r.backup_id == *id);
        if let Some((id, why)) = request.damaged.iter().find(|(id, _)| below(id)) {
            let refusal = guard::Refusal::DamagedParent {
                parent: parent.clone(),
                why: format!("{id} was found damaged: {why}"),
            };
            return Ok(guard::instead(request, refusal)?);
        }
    }
    match open_layers(inner, points, parent, request.disk) {
        Ok(_) => Ok(decision),
        Err(e) if matches!(e.kind, ErrorKind::Damaged | ErrorKind::Unsupported) => {
            let refusal = guard::Refusal::DamagedParent {
                parent: parent.clone(),
                why: e.to_string(),
            };
            Ok(guard::instead(request, refusal)?)
        }
        Err(e) => Err(e),
    }
}

/// The guard's decision over these points.
fn decide_on(
    points: &VmPoints,
    repository: RepositoryId,
    request: &DiskRequest,
) -> Result<Decision, guard::Refusal> {
    let bindings = points.bindings();
    let head = points.head(request.disk);
    let full = match head {
        guard::Head::At(head) => points.full_of(head),
        _ => Err(Error::new(ErrorKind::NotFound, "no head")),
    };
    let broken = full.as_ref().err().map(ToString::to_string);
    let head = match (head, &broken) {
        // A head whose chain is broken carries nothing, whatever its token says.
        (guard::Head::At(_), Some(why)) => guard::Head::Unclear(why),
        (head, _) => head,
    };
    let history = guard::History {
        repository,
        bindings: &bindings,
        head,
        full: full.as_deref().ok(),
    };
    guard::decide(request, &history)
}

impl Inner {
    /// The book of a VM. Never asked for while another book is locked.
    pub(super) fn book(&self, vm: VmId) -> Arc<Mutex<VmBook>> {
        let mut books = lock(&self.books);
        let book = books.entry(vm);
        Arc::clone(book.or_insert_with(|| Arc::new(Mutex::new(VmBook::new(vm)))))
    }

    /// An I/O error with this repository's name in front.
    pub(super) fn io(&self, doing: &str, e: io::Error) -> Error {
        Error::io(format!("repository {}: {doing}", self.options.name), e)
    }
}

/// A guard of this mutex. A thread that panicked under it left consistent data behind: every
/// change of ours under a lock is one assignment at its end.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Found {
    Repository(RepositoryId),
    Empty,
}

fn find(dir: &dyn Directory, options: &RepositoryOptions) -> Result<Found> {
    let name = &options.name;
    match dir.read_small(REPOSITORY_FILE, MAX_REPOSITORY_BYTES) {
        Ok(bytes) => {
            let at = format!("repository {name}: {REPOSITORY_FILE}");
            let file: RepositoryFile = sealed_json::decode(FORMAT, &at, &bytes)?;
            return Ok(Found::Repository(file.repository_id));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => {
            return Err(Error::io(
                format!("repository {name}: {REPOSITORY_FILE}"),
                e,
            ));
        }
    }
    let list = |path| {
        dir.list(path)
            .map_err(|e| Error::io(format!("repository {name}: listing it"), e))
    };
    // A creation that was cut off leaves the directory of our own things, and is gone on with.
    let mut foreign = list("")?
        .into_iter()
        .filter(|e| e.name != META_DIR && e.name != LOST_FOUND);
    match foreign.next() {
        None => Ok(Found::Empty),
        Some(entry) => Err(Error::new(
            ErrorKind::Exists,
            format!(
                "repository {name}: the directory is no repository and not empty: it holds {:?}",
                entry.name
            ),
        )),
    }
}

fn create(dir: &dyn Directory, options: &RepositoryOptions) -> Result<RepositoryId> {
    let io = |e| Error::io(format!("repository {}: creating it", options.name), e);
    let file = RepositoryFile {
        repository_id: RepositoryId::generate(),
        created_at: options.now,
        software: options.software.clone(),
    };
    let bytes = sealed_json::encode(FORMAT, &file)?;
    dir.create_dirs(META_DIR).map_err(io)?;
    dir.create_dirs(QUARANTINE_DIR).map_err(io)?;
    match dir.remove_file(REPOSITORY_NEW_FILE) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    dir.write_small(REPOSITORY_NEW_FILE, &bytes).map_err(io)?;
    dir.rename(REPOSITORY_NEW_FILE, REPOSITORY_FILE)
        .map_err(io)?;
    dir.sync_dir(META_DIR).map_err(io)?;
    Ok(file.repository_id)
}

/// One process at a time: an exclusive lock on a file that says who.
fn take_lease(dir: &dyn Directory, options: &RepositoryOptions) -> Result<Arc<dyn File>> {
    let name = &options.name;
    let io = |e| Error::io(format!("repository {name}: taking its lease"), e);
    let file = match dir.open(LEASE_FILE, Create::OpenWrite) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => dir.open(LEASE_FILE, Create::New),
        other => other,
    }
    .map_err(io)?;
    match file.lock(LockKind::Exclusive) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            let who = dir.read_small(LEASE_FILE, 4096).unwrap_or_default();
            let who = String::from_utf8_lossy(&who);
            return Err(Error::with(
                ErrorKind::Locked,
                format!("repository {name} is open elsewhere: {}", who.trim()),
                e,
            ));
        }
        Err(e) => return Err(io(e)),
    }
    let who: String = options.owner.chars().filter(|c| !c.is_control()).collect();
    file.set_len(0).map_err(io)?;
    file.write_at_blocking(0, who.as_bytes()).map_err(io)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
