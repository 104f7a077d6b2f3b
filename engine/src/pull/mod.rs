//! Pull mode: the engine reads a source itself and feeds an ingest, which neither knows nor cares.
//!
//! A full sends all of the disk, holes as zero. An incremental sends the ranges of a changed-extent
//! list, or, without one, reads everything and sends what differs from the parent's content.

mod container;
mod sink;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sendense_formats::ChangeList;
use sendense_nbd::NbdUri;
use sendense_nbd::client::{ClientPool, ConnectOptions};

pub use sink::SourceSink;

use crate::chain::Chain;
use crate::io::Io;
use crate::plane::Source;
use crate::pool::IoBuf;
use crate::storage::{File, LockKind, LockedFile};
use crate::transfer::{
    ChainReader, Copied, CopyOptions, DiskReader, FileReader, NbdReader, Progress, client, copy,
};
use crate::{Error, ErrorKind, Result};

/// Where a disk is read from.
#[derive(Debug, Clone)]
pub enum PullSource {
    /// A raw file or a block device, opened to read by whoever may say so (see
    /// [`AllowList`](crate::allow::AllowList)).
    File {
        /// The file.
        file: Arc<dyn File>,
        /// How messages name it.
        name: String,
    },
    /// A remote disk.
    Nbd {
        /// Where.
        uri: NbdUri,
        /// How many connections, where the server allows several.
        connections: usize,
        /// How to connect; `base:allocation` is asked for in any case.
        options: ConnectOptions,
    },
}

/// What is sent.
#[derive(Debug, Clone)]
pub enum PullMode {
    /// All of the disk.
    Full,
    /// These ranges.
    Changes(ChangeList),
    /// What differs from this content, found by reading both.
    CompareWith(Arc<Chain>),
}

/// An opened source.
#[derive(Debug)]
pub enum OpenSource {
    /// A file or device.
    File(FileReader),
    /// A remote disk.
    Nbd(NbdReader),
}

impl OpenSource {
    /// Opens it: the size is known from now on.
    pub async fn open(source: PullSource) -> Result<Self> {
        match source {
            PullSource::File { file, name } => {
                // Whoever writes to it meanwhile, with QEMU's locks, is told so.
                let file = LockedFile::lock(file, LockKind::Reader);
                let file = file.map_err(|e| Error::io(&name, e))?;
                let size = file.len().map_err(|e| Error::io(&name, e))?;
                Ok(Self::File(FileReader::new(file, size, name)))
            }
            PullSource::Nbd {
                uri,
                connections,
                mut options,
            } => {
                let allocation = ConnectOptions::with_allocation().contexts;
                for context in allocation {
                    if !options.contexts.contains(&context) {
                        options.contexts.push(context);
                    }
                }
                let pool = ClientPool::connect(&uri, connections.max(1), &options).await;
                Ok(Self::Nbd(NbdReader::new(
                    pool.map_err(|e| client("the NBD source", e))?,
                )))
            }
        }
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.reader().size()
    }

    /// The name of the container format (QCOW2, VMDK, VHDX, ...) that its bytes are; none where
    /// they may be a disk. Such a source would become a backup of the container, not of the disk
    /// in it.
    pub async fn container(&self, io: &Io) -> Result<Option<&'static str>> {
        let size = self.size();
        let head = usize::try_from(size).map_or(container::HEAD, |n| n.min(container::HEAD));
        // From a block's beginning, for servers that want that.
        let tail = size.saturating_sub(512) & !(container::HEAD as u64 - 1);
        let behind = usize::try_from(size - tail).unwrap_or(0);
        Ok(container::container(
            &self.bytes(io, 0, head).await?,
            &self.bytes(io, tail, behind).await?,
        ))
    }

    async fn bytes(&self, io: &Io, at: u64, len: usize) -> Result<Vec<u8>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let (buf, result) = self.reader().read(io, at, IoBuf::heap(len)).await;
        result?;
        Ok(buf.map(|b| b.as_ref().to_vec()).unwrap_or_default())
    }

    /// Fails where a file or device was cut or extended since it was opened. A remote disk keeps
    /// its size for as long as its connections last.
    fn unchanged(&self) -> Result<()> {
        match self {
            Self::File(reader) => reader.unchanged(),
            Self::Nbd(_) => Ok(()),
        }
    }

    fn reader(&self) -> &dyn DiskReader {
        match self {
            Self::File(reader) => reader,
            Self::Nbd(reader) => reader,
        }
    }
}

/// Reads the source and writes into `target`, an ingest. Completes with everything written;
/// sealing, which makes it durable, is the caller's. A source that was cut or extended meanwhile is
/// [`ErrorKind::SourceChanged`]: its bytes are not those of one disk.
pub async fn pull(
    io: &Io,
    source: &OpenSource,
    target: &dyn Source,
    mode: &PullMode,
    progress: &Progress,
) -> Result<Copied> {
    let size = target.info().size;
    if source.size() != size {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "the source has {} bytes, and the backup is of {size}",
                source.size()
            ),
        ));
    }
    let mut options = CopyOptions {
        // The ingest looks for zero itself.
        find_zeroes: None,
        ..CopyOptions::default()
    };
    let mut base = None;
    match mode {
        PullMode::Full => {}
        PullMode::Changes(changes) => {
            changes.check_within(size)?;
            options.ranges = Some(changes.ranges().to_vec());
        }
        PullMode::CompareWith(chain) => base = Some(ChainReader::new(chain.clone())),
    }
    let sink = SourceSink::new(target.attach(io));
    let base = base.as_ref().map(|b| b as &dyn DiskReader);
    let copied = copy(io, source.reader(), base, &sink, &options, progress).await?;
    source.unchanged()?;
    Ok(copied)
}
