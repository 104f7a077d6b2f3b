//! A remote disk as an end of a copy, over one or several NBD connections.
//!
//! Messages never hold the export's name: it may be a secret.

use bytes::Bytes;
use sendense_formats::GuestRange;
use sendense_nbd::client::{ClientError, ClientPool, Refusal};
use sendense_nbd::{NbdError, ZeroFlags};

use super::read::push;
use super::{DiskReader, DiskSink, Lent, Span};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{LocalBoxFuture, WriteRun};
use crate::{Error, ErrorKind, Result};

/// The context that tells where a disk is zero.
const ALLOCATION: &str = "base:allocation";
/// `base:allocation`: reads as zero.
const ZERO: u32 = 2;
/// Bytes of zero in one write, where the server cannot write zeroes by itself.
const ZEROES: usize = 1 << 20;

/// Reads a remote disk.
#[derive(Debug, Clone)]
pub struct NbdReader {
    pool: ClientPool,
}

impl NbdReader {
    /// Over these connections. Where `base:allocation` was asked for and is served, holes are not
    /// read.
    pub fn new(pool: ClientPool) -> Self {
        Self { pool }
    }
}

impl DiskReader for NbdReader {
    fn size(&self) -> u64 {
        self.pool.info().size
    }

    fn spans(&self, range: GuestRange) -> LocalBoxFuture<'_, Result<Vec<Span>>> {
        Box::pin(async move {
            let mut spans = Vec::new();
            if !self.pool.info().has_context(ALLOCATION) {
                push(&mut spans, range, false);
                return Ok(spans);
            }
            let (at, len) = (range.start().get(), range.len());
            let extents = self.pool.client().map(ALLOCATION, at, len).await;
            for (at, extent) in extents.map_err(|e| client("the NBD source", e))? {
                if let Some(told) = GuestRange::new(at, extent.len) {
                    push(&mut spans, told.intersect(range), extent.flags & ZERO != 0);
                }
            }
            Ok(spans)
        })
    }

    fn read<'a>(&'a self, _io: &'a Io, at: u64, buf: IoBuf) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            match self.pool.read_into(at, buf).await {
                Ok(buf) => (Some(buf), Ok(())),
                Err(e) => (None, Err(client("the NBD source", e))),
            }
        })
    }
}

/// Writes a remote disk.
#[derive(Debug, Clone)]
pub struct NbdSink {
    pool: ClientPool,
}

impl NbdSink {
    /// Over these connections, for a disk of `size` bytes. What lies behind its end on a larger
    /// target is left as it is.
    pub fn new(pool: ClientPool, size: u64) -> Result<Self> {
        let info = pool.info();
        if info.read_only() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the NBD target is read-only",
            ));
        }
        if info.size < size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the NBD target has {} bytes, and the disk has {size}",
                    info.size
                ),
            ));
        }
        Ok(Self { pool })
    }
}

impl DiskSink for NbdSink {
    fn unit(&self) -> u64 {
        u64::from(self.pool.info().block_size.minimum).max(4096)
    }

    fn write<'a>(
        &'a self,
        _io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            // The buffer travels with the request; it comes back to nobody.
            let bytes = Bytes::from_owner(buf);
            for WriteRun { at, part } in runs {
                if part.end > bytes.len() || part.start > part.end {
                    let e = Error::new(ErrorKind::Invalid, "a run outside of its buffer");
                    return (None, Err(e));
                }
                if let Err(e) = self.pool.write(at, bytes.slice(part), false).await {
                    return (None, Err(client("the NBD target", e)));
                }
            }
            (None, Ok(()))
        })
    }

    fn zero<'a>(&'a self, _io: &'a Io, range: GuestRange) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (mut at, end) = (range.start().get(), range.end().get());
            let failed = |e| client("the NBD target", e);
            if self.pool.info().can_zero() {
                let zeroed = self
                    .pool
                    .write_zeroes(at, end - at, ZeroFlags::default(), false);
                return zeroed.await.map_err(failed);
            }
            let zeroes = Bytes::from(vec![0; ZEROES]);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(ZEROES).min(ZEROES);
                self.pool
                    .write(at, zeroes.slice(..len), false)
                    .await
                    .map_err(failed)?;
                at += len as u64;
            }
            Ok(())
        })
    }

    fn finish<'a>(&'a self, _io: &'a Io) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.pool.info().can_flush() {
                let flushed = self.pool.flush().await;
                flushed.map_err(|e| client("the NBD target", e))?;
            }
            self.pool.disconnect().await;
            Ok(())
        })
    }
}

/// What the client says, as an error of ours. The hint of a refused connection is in its text.
pub(crate) fn client(at: &str, e: ClientError) -> Error {
    let kind = match &e {
        ClientError::Refused {
            refusal: Refusal::Unknown,
            ..
        } => ErrorKind::NotFound,
        ClientError::Refused { .. } | ClientError::Uri(_) | ClientError::Request { .. } => {
            ErrorKind::Invalid
        }
        ClientError::Remote {
            error: NbdError::NoSpace,
            ..
        } => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::with(kind, at, e)
}
