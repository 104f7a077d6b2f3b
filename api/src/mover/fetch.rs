//! A restore export into a file or block device of this machine.
//!
//! A file is written beside its name and renamed when it is whole and durable, so that a half
//! restored disk is never taken for one. Holes stay holes. A device is written in place.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FallocateFlags, RenameFlags};
use sendense_nbd::client::{Client, ClientPool, ConnectOptions};
use tokio::task::JoinSet;

use super::{CHUNK, IN_FLIGHT, MoveError, Progress, blocking, connect, local, zero};

/// Zeroes inside of data stay holes in blocks of this size.
const THIN_UNIT: usize = 32 << 10;

const ALLOCATION: &str = "base:allocation";
/// `base:allocation`: reads as zero.
const ZERO: u32 = 2;
/// Bytes that one look at the map covers.
const LOOK: u64 = 64 << 30;

/// What is fetched where.
#[derive(Clone)]
pub struct Fetch {
    /// The export, as the daemon named it.
    pub uris: Vec<String>,
    /// The file or block device.
    pub path: PathBuf,
    /// Write over what is there.
    pub overwrite: bool,
    /// Connections.
    pub connections: usize,
    /// Told how many more bytes are dealt with.
    pub progress: Progress,
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URIs are capabilities: they stay out of logs.
        f.debug_struct("Fetch")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Fetches it. Durable and under its name when this ends well.
pub async fn fetch(fetch: Fetch) -> Result<(), MoveError> {
    let path = fetch.path.clone();
    let overwrite = fetch.overwrite;
    let target =
        blocking(move || Target::open(&path, overwrite).map(|t| Growing(Arc::new(t)))).await?;
    receive(&fetch, &target.0).await?;
    // The guard stays here: given up on now, the file loses its temporary name under the sync.
    let whole = Arc::clone(&target.0);
    blocking(move || whole.finish()).await
}

/// A target on its way. Dropped early, by an error or by a caller that gave up waiting, it leaves
/// nothing under the file's own name or beside it.
#[derive(Debug)]
struct Growing(Arc<Target>);

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.discard();
    }
}

async fn receive(fetch: &Fetch, target: &Arc<Target>) -> Result<(), MoveError> {
    let options = ConnectOptions::with_allocation();
    let pool = connect(&fetch.uris, fetch.connections, &options).await?;
    let result = copy(&pool, target, &fetch.progress).await;
    pool.disconnect().await;
    result
}

async fn copy(
    pool: &ClientPool,
    target: &Arc<Target>,
    progress: &Progress,
) -> Result<(), MoveError> {
    let size = pool.info().size;
    let sized = Arc::clone(target);
    blocking(move || sized.set_size(size)).await?;
    let mapped = pool.info().has_context(ALLOCATION);
    let mut flying: JoinSet<Result<(), MoveError>> = JoinSet::new();
    let mut at = 0;
    while at < size {
        let look = LOOK.min(size - at);
        let extents = if mapped {
            pool.client().map(ALLOCATION, at, look).await?
        } else {
            Vec::new()
        };
        let runs: Vec<(u64, u64, bool)> = if mapped {
            extents
                .iter()
                .map(|(at, e)| (*at, e.len, e.flags & ZERO != 0))
                .collect()
        } else {
            vec![(at, look, false)]
        };
        for (start, len, zero) in runs {
            let end = start + len;
            let mut from = start;
            while from < end {
                let to = if zero {
                    end
                } else {
                    (from - from % CHUNK).saturating_add(CHUNK).min(end)
                };
                while flying.len() >= IN_FLIGHT {
                    land(&mut flying).await?;
                }
                let one = one(
                    pool.client().clone(),
                    Arc::clone(target),
                    from,
                    to - from,
                    zero,
                );
                let progress = Arc::clone(progress);
                flying.spawn(async move {
                    one.await?;
                    progress(to - from);
                    Ok(())
                });
                from = to;
            }
        }
        at += look;
    }
    while !flying.is_empty() {
        land(&mut flying).await?;
    }
    Ok(())
}

async fn one(
    client: Client,
    target: Arc<Target>,
    at: u64,
    len: u64,
    zero: bool,
) -> Result<(), MoveError> {
    if zero {
        return blocking(move || target.zero(at, len)).await;
    }
    let len = usize::try_from(len)
        .map_err(|_| MoveError::Misfit("a chunk does not fit into memory".to_owned()))?;
    let bytes = client.read(at, len).await?;
    blocking(move || target.write(at, &bytes)).await
}

async fn land(flying: &mut JoinSet<Result<(), MoveError>>) -> Result<(), MoveError> {
    match flying.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(e)) => Err(MoveError::Misfit(format!("a writer ended: {e}"))),
        None => Ok(()),
    }
}

#[derive(Debug)]
struct Target {
    path: PathBuf,
    file: File,
    /// The name that a file grows under; a device has none.
    growing: Option<PathBuf>,
    overwrite: bool,
    /// It has its name.
    whole: AtomicBool,
}

impl Target {
    fn open(path: &Path, overwrite: bool) -> Result<Self, MoveError> {
        let failed = |e| MoveError::file(format!("{} cannot be written", path.display()), e);
        let odd = |kind, why| failed(std::io::Error::new(kind, why));
        let kind = match std::fs::metadata(path) {
            Ok(meta) => Some(meta.file_type()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(failed(e)),
        };
        if kind.is_some() && !overwrite {
            return Err(odd(
                std::io::ErrorKind::AlreadyExists,
                "it is there already; --overwrite replaces it",
            ));
        }
        match kind {
            Some(kind) if kind.is_block_device() => {
                // Exclusive, so that the kernel refuses a device that is mounted or otherwise held.
                let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
                let file = OpenOptions::new()
                    .write(true)
                    .custom_flags(exclusive)
                    .open(path)
                    .map_err(failed)?;
                return Ok(Self {
                    path: path.to_owned(),
                    file,
                    growing: None,
                    overwrite,
                    whole: AtomicBool::new(false),
                });
            }
            Some(kind) if !kind.is_file() => {
                return Err(odd(
                    std::io::ErrorKind::InvalidInput,
                    "it is neither a regular file nor a block device",
                ));
            }
            _ => {}
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let growing = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            // A disk holds secrets: nobody else reads it unless its owner says so.
            .mode(0o600)
            .open(&growing)
            .map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            growing: Some(growing),
            overwrite,
            whole: AtomicBool::new(false),
        })
    }

    fn failed(&self, e: std::io::Error) -> MoveError {
        MoveError::file(format!("{} cannot be written", self.path.display()), e)
    }

    fn set_size(&self, size: u64) -> Result<(), MoveError> {
        if self.growing.is_some() {
            return self.file.set_len(size).map_err(|e| self.failed(e));
        }
        let room = local::size(&self.file).map_err(|e| self.failed(e))?;
        if room < size {
            return Err(MoveError::Misfit(format!(
                "{} has {room} bytes, the disk has {size}",
                self.path.display()
            )));
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), MoveError> {
        if self.growing.is_none() {
            return self.write_all(at, bytes);
        }
        for (run, zero) in zero::runs(at, bytes, THIN_UNIT) {
            if let (false, Some(data)) = (zero, bytes.get(run.clone())) {
                self.write_all(at + run.start as u64, data)?;
            }
        }
        Ok(())
    }

    fn write_all(&self, at: u64, bytes: &[u8]) -> Result<(), MoveError> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|e| self.failed(e))
    }

    /// A new file reads as zero by itself; a device is told to.
    fn zero(&self, at: u64, len: u64) -> Result<(), MoveError> {
        if self.growing.is_some() {
            return Ok(());
        }
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, zero, at, len).is_ok() {
            return Ok(());
        }
        let block = vec![0; 1 << 20];
        let (mut from, end) = (at, at.saturating_add(len));
        while from < end {
            let n = usize::try_from(end - from)
                .unwrap_or(usize::MAX)
                .min(block.len());
            self.write_all(from, block.get(..n).unwrap_or(&block))?;
            from += n as u64;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), MoveError> {
        self.file.sync_all().map_err(|e| self.failed(e))?;
        let Some(growing) = &self.growing else {
            return Ok(());
        };
        let how = if self.overwrite {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let renamed = rustix::fs::renameat_with(CWD, growing, CWD, &self.path, how);
        renamed.map_err(|e| self.failed(e.into()))?;
        self.whole.store(true, Ordering::Relaxed);
        let dir = match self.path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| self.failed(e))
    }

    fn discard(&self) {
        let growing = self.growing.as_ref();
        if let Some(growing) = growing.filter(|_| !self.whole.load(Ordering::Relaxed)) {
            // What cannot be removed stays under its `.partial` name, which says what it is.
            let _ = std::fs::remove_file(growing);
        }
    }
}

#[cfg(test)]
mod tests;
