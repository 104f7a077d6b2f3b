//! A file or block device as it is, as an export.
//!
//! All connections share one descriptor, so a FLUSH on one covers what was replied on all. A
//! failed write is told to the client that wrote. A failed sync is told to everybody: after it
//! nobody knows what is on stable storage, so the export answers no write and no FLUSH any more
//! until it is opened again.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sendense_nbd::{Done, ExportInfo, NbdError, StatusExtent, ZeroFlags};

use super::status::{Extents, HOLE, ZERO};
use crate::io::Io;
use crate::plane::{DynExport, Source};
use crate::pool::IoBuf;
use crate::storage::{Extent, File, LocalBoxFuture, WriteRun};

/// Bytes that one BLOCK_STATUS looks at.
const LOOK: u64 = 64 << 30;
/// Bytes whose extents are asked for at once.
const STEP: u64 = 1 << 30;
/// Bytes of zero that are written at once where the storage cannot do without.
const ZEROES: usize = 256 << 10;

/// How a file is served.
#[derive(Debug, Clone)]
pub struct FileExportOptions {
    /// What clients are told; size, flags, description.
    pub info: ExportInfo,
    /// Put every write on stable storage before its reply.
    pub sync: bool,
}

/// A file to be served.
#[derive(Clone)]
pub struct FileSource {
    shared: Arc<Shared>,
}

struct Shared {
    file: Arc<dyn File>,
    options: FileExportOptions,
    /// A sync failed.
    lost: AtomicBool,
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource")
            .field("file", &self.shared.file)
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl FileSource {
    /// Serves the first `options.info.size` bytes of the file.
    pub fn new(file: Arc<dyn File>, options: FileExportOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                file,
                options,
                lost: AtomicBool::new(false),
            }),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.shared.file
    }
}

impl Source for FileSource {
    fn info(&self) -> ExportInfo {
        self.shared.options.info.clone()
    }

    fn attach(&self, io: &Io) -> Rc<dyn DynExport> {
        Rc::new(Attached {
            io: io.clone(),
            shared: self.shared.clone(),
        })
    }
}

struct Attached {
    io: Io,
    shared: Arc<Shared>,
}

impl Attached {
    fn writable(&self) -> Result<(), NbdError> {
        if self.shared.options.info.read_only {
            return Err(NbdError::NotPermitted);
        }
        if self.shared.lost.load(Ordering::Acquire) {
            return Err(NbdError::Io);
        }
        Ok(())
    }

    async fn settled(&self) -> Result<(), NbdError> {
        if self.shared.options.sync {
            self.sync().await?;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), NbdError> {
        if self.shared.lost.load(Ordering::Acquire) {
            return Err(NbdError::Io);
        }
        self.shared.file.sync(&self.io).await.map_err(|e| {
            self.shared.lost.store(true, Ordering::Release);
            tracing::error!(error = %e, "sync failed: the export takes no more writes");
            errno(&e)
        })
    }

    async fn punch(&self, at: u64, len: u64) -> Result<bool, NbdError> {
        let shared = self.shared.clone();
        blocking(move || shared.file.punch(at, len)).await
    }

    async fn write_zero_bytes(&self, at: u64, len: u64) -> Result<(), NbdError> {
        let mut done = 0;
        let first = usize::try_from(len).unwrap_or(ZEROES).min(ZEROES);
        let mut buf = self.io.scratch(first).await;
        buf.as_mut().fill(0);
        while done < len {
            let part = usize::try_from(len - done).unwrap_or(first).min(first);
            let run = WriteRun {
                at: at.saturating_add(done),
                part: 0..part,
            };
            let result;
            (buf, result) = self.shared.file.write_runs(&self.io, buf, vec![run]).await;
            result.map_err(|e| errno(&e))?;
            done += part as u64;
        }
        Ok(())
    }
}

impl DynExport for Attached {
    fn info(&self) -> &ExportInfo {
        &self.shared.options.info
    }

    fn read(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async move {
            let (buf, result) = self.shared.file.read_at(&self.io, at, buf).await;
            Done {
                result: result.map_err(|e| errno(&e)),
                buf,
            }
        })
    }

    fn write(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async move {
            if let Err(e) = self.writable() {
                return Done {
                    result: Err(e),
                    buf,
                };
            }
            let run = WriteRun {
                at,
                part: 0..buf.len(),
            };
            let (buf, result) = self.shared.file.write_runs(&self.io, buf, vec![run]).await;
            let result = match result {
                Ok(()) => self.settled().await,
                Err(e) => Err(errno(&e)),
            };
            Done { result, buf }
        })
    }

    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async move {
            self.writable()?;
            // A hole is what NO_HOLE forbids; writing is what FAST_ZERO forbids.
            if flags.no_hole || !self.punch(at, len).await? {
                if flags.fast {
                    return Err(NbdError::NotSupported);
                }
                self.write_zero_bytes(at, len).await?;
            }
            self.settled().await
        })
    }

    fn trim(&self, at: u64, len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async move {
            self.writable()?;
            // Only advice: where the storage cannot, everything stays.
            self.punch(at, len).await?;
            self.settled().await
        })
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async move {
            if self.shared.options.info.read_only {
                return Ok(());
            }
            self.sync().await
        })
    }

    fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        Box::pin(async move {
            if context != 0 {
                return Err(NbdError::Invalid);
            }
            let mut found = Extents::new(max_extents);
            let end = at
                .saturating_add(len.min(LOOK))
                .min(self.shared.options.info.size);
            let mut from = at;
            while from < end && !found.is_full() {
                let to = from.saturating_add(STEP).min(end);
                let shared = self.shared.clone();
                let extents = blocking(move || shared.file.extents(from, to - from)).await?;
                let mut next = from;
                for Extent { at, len, hole } in extents {
                    let stop = at.saturating_add(len).min(to);
                    if at == next && stop > at {
                        found.push(stop - at, if hole { HOLE | ZERO } else { 0 });
                        next = stop;
                    }
                }
                // What was not told about is data.
                found.push(to - next, 0);
                from = to;
            }
            Ok(found.into_list())
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NbdError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| errno(&e)),
        Err(_) => Err(NbdError::Io),
    }
}

fn errno(e: &io::Error) -> NbdError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            NbdError::NoSpace
        }
        _ => NbdError::Io,
    }
}
