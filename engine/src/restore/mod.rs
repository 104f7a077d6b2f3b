//! A restore point back onto a disk: a raw file, a device, a QCOW2 file, a remote disk.
//!
//! Thin stays thin. A new file grows under `NAME.partial` and gets its name when it is whole and
//! on stable storage; where the restore fails or is cancelled it is removed. Nothing that exists is
//! overwritten unless asked, and then only once the new content is complete: until then the old
//! file is locked, so one that others have open (a running QEMU) is refused at once, and it is
//! replaced in one step. A `NAME.partial` that nobody holds is what a killed run left behind; it is
//! removed.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use sendense_formats::ClusterSize;
use sendense_nbd::NbdUri;
use sendense_nbd::client::{ClientPool, ConnectOptions};

use crate::chain::Chain;
use crate::io::Io;
use crate::storage::{Create, Directory, File, LockKind, LockedFile};
use crate::transfer::{
    ChainReader, Copied, CopyOptions, DiskReader, DiskSink, FileSink, NbdSink, Progress, Qcow2Sink,
    client, copy,
};
use crate::{Error, ErrorKind, Result};

/// The format of a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// The disk as it is, holes for zero.
    Raw,
    /// A QCOW2 image without a parent, of this cluster size (64 KiB to 2 MiB).
    Qcow2(ClusterSize),
}

/// Where a disk goes.
#[derive(Debug, Clone)]
pub enum RestoreTarget {
    /// A new file.
    File {
        /// The directory tree that it lies in.
        directory: Arc<dyn Directory>,
        /// Its path in there.
        path: String,
        /// Its format.
        format: FileFormat,
        /// Replace what has this name.
        overwrite: bool,
    },
    /// A block device, or a raw file whose content may go; it has room for the disk.
    Device {
        /// Opened for writing.
        file: Arc<dyn File>,
        /// How messages name it.
        name: String,
    },
    /// A remote disk that has room for the disk.
    Nbd {
        /// Where.
        uri: NbdUri,
        /// How many connections, where the server allows several.
        connections: usize,
        /// How to connect.
        options: ConnectOptions,
    },
}

/// Restores the disk that `chain` holds.
pub async fn restore(
    io: &Io,
    chain: &Arc<Chain>,
    target: RestoreTarget,
    progress: &Progress,
) -> Result<Copied> {
    let reader = ChainReader::new(chain.clone());
    write(io, &reader, target, &CopyOptions::default(), progress).await
}

/// Writes any disk to a target.
pub async fn write(
    io: &Io,
    reader: &dyn DiskReader,
    target: RestoreTarget,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Copied> {
    let size = reader.size();
    match target {
        RestoreTarget::Device { file, name } => {
            let file = LockedFile::lock(file, LockKind::Writer);
            let file = file.map_err(|e| Error::io(&name, e))?;
            let sink = FileSink::over(file, size, name)?;
            copy(io, reader, None, &sink, options, progress).await
        }
        RestoreTarget::Nbd {
            uri,
            connections,
            options: connect,
        } => {
            let pool = ClientPool::connect(&uri, connections.max(1), &connect).await;
            let sink = NbdSink::new(pool.map_err(|e| client("the NBD target", e))?, size)?;
            copy(io, reader, None, &sink, options, progress).await
        }
        RestoreTarget::File {
            directory,
            path,
            format,
            overwrite,
        } => {
            let new = NewFile::create(directory, path, overwrite)?;
            let copied = fill(io, reader, &new, format, options, progress).await?;
            new.keep().map(|()| copied)
        }
    }
}

async fn fill(
    io: &Io,
    reader: &dyn DiskReader,
    new: &NewFile,
    format: FileFormat,
    options: &CopyOptions,
    progress: &Progress,
) -> Result<Copied> {
    let size = reader.size();
    let (file, name) = (new.file.clone(), new.path.clone());
    let raw;
    let qcow2;
    let sink: &dyn DiskSink = match format {
        FileFormat::Raw => {
            raw = FileSink::fresh(file, size, name)?;
            &raw
        }
        FileFormat::Qcow2(cluster) => {
            qcow2 = Qcow2Sink::new(file, size, cluster, name)?;
            &qcow2
        }
    };
    copy(io, reader, None, sink, options, progress).await
}

/// A file that has its name only once it is whole.
#[derive(Debug)]
struct NewFile {
    directory: Arc<dyn Directory>,
    path: String,
    partial: String,
    /// What is replaced, locked until it is.
    old: Option<Arc<dyn File>>,
    /// What a killed run left, kept locked: who comes at the same time finds it taken.
    _left: Option<Arc<dyn File>>,
    file: Arc<dyn File>,
    kept: bool,
}

impl NewFile {
    fn create(directory: Arc<dyn Directory>, path: String, overwrite: bool) -> Result<Self> {
        let old = old(&*directory, &path, overwrite)?;
        let partial = format!("{path}.partial");
        let (file, left) = begin(&*directory, &partial)?;
        Ok(Self {
            directory,
            path,
            partial,
            old,
            _left: left,
            file,
            kept: false,
        })
    }

    /// Gives it its name. Its content is on stable storage already.
    fn keep(mut self) -> Result<()> {
        if !is_named(&*self.directory, &self.partial, &*self.file) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{}: somebody else has put a file there", self.partial),
            ));
        }
        let renamed = match &self.old {
            Some(_) => self.directory.replace(&self.partial, &self.path),
            None => self.directory.rename(&self.partial, &self.path),
        };
        renamed.map_err(|e| Error::io(&self.path, e))?;
        self.kept = true;
        let parent = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let synced = self.directory.sync_dir(parent);
        synced.map_err(|e| Error::io(&self.path, e))
    }
}

impl Drop for NewFile {
    /// Removes what is not whole, also where the task was dropped.
    fn drop(&mut self) {
        if !self.kept
            && is_named(&*self.directory, &self.partial, &*self.file)
            && let Err(e) = self.directory.remove_file(&self.partial)
        {
            tracing::warn!(path = %self.partial, error = %e, "a partial file could not be removed");
        }
        if let Err(e) = self.file.unlock() {
            tracing::warn!(path = %self.partial, error = %e, "a lock could not be dropped");
        }
    }
}

/// What has the name: nothing, or a file that may be replaced and that nobody else uses. Whatever
/// else has it counts too, also what we may not open.
fn old(directory: &dyn Directory, path: &str, overwrite: bool) -> Result<Option<Arc<dyn File>>> {
    match directory.open(path, Create::OpenRead) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ if !overwrite => Err(Error::new(
            ErrorKind::Exists,
            format!("{path}: is there already, and nothing is overwritten unasked"),
        )),
        opened => {
            let locked = opened.and_then(|file| LockedFile::lock(file, LockKind::Writer));
            locked.map(Some).map_err(|e| Error::io(path, e))
        }
    }
}

/// What a killed run left under the temporary name: removed, and locked until the new file is.
type Left = Option<Arc<dyn File>>;

/// The new file under its temporary name, locked; and what had that name before.
fn begin(directory: &dyn Directory, partial: &str) -> Result<(Arc<dyn File>, Left)> {
    let mut left = None;
    let file = match directory.open(partial, Create::New) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            left = Some(remove_left(directory, partial)?);
            directory.open(partial, Create::New)
        }
        opened => opened,
    };
    let file = file.map_err(|e| Error::io(partial, e))?;
    if let Err(e) = file.lock(LockKind::Writer) {
        // Locked by others: they take it for a killed run's, and remove it themselves.
        if e.kind() != std::io::ErrorKind::WouldBlock {
            let _ = directory.remove_file(partial);
        }
        return Err(Error::io(partial, e));
    }
    Ok((file, left))
}

/// Removes the temporary file of a run that was killed: no other is without a lock.
fn remove_left(directory: &dyn Directory, partial: &str) -> Result<Arc<dyn File>> {
    let in_the_way = |e: std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::WouldBlock => ErrorKind::Locked,
            _ => ErrorKind::Exists,
        };
        let what = "is in the way of the new file; end what writes it, or remove it";
        Error::with(kind, format!("{partial}: {what}"), e)
    };
    let left = directory.open(partial, Create::OpenRead);
    let left = left.and_then(|file| LockedFile::lock(file, LockKind::Exclusive));
    let left = left.map_err(in_the_way)?;
    // Its run may have ended well before the lock was ours, and the name be another's by now.
    if !is_named(directory, partial, &*left) {
        return Err(in_the_way(std::io::ErrorKind::WouldBlock.into()));
    }
    directory.remove_file(partial).map_err(in_the_way)?;
    Ok(left)
}

/// Whether a name is that of this very file.
fn is_named(directory: &dyn Directory, name: &str, file: &dyn File) -> bool {
    let named = directory.open(name, Create::OpenRead);
    let named = named.and_then(|named| named.identity());
    matches!((named, file.identity()), (Ok(named), Ok(ours)) if named == ours)
}
