//! The client side: a handle that many tasks may use at once, over one connection or several.
//!
//! [`Client`] is cheap to clone and `Send`. A task of the tokio runtime that [`Client::connect`] was
//! called in drives the socket (the runtime needs its I/O and time drivers); it ends with the last
//! handle. Calls go out as they come, replies may come in any order. A call whose future is dropped
//! may still take effect. Dropping the last handle sends DISC without waiting for anything: call
//! [`flush`](Client::flush) before, as the protocol promises nothing else.
//!
//! ```no_run
//! # use sendense_nbd::client::{Client, ConnectOptions};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let uri = "nbd+unix:///disk?socket=/run/nbd.sock".parse()?;
//! let disk = Client::connect(&uri, &ConnectOptions::default()).await?;
//! disk.write(0, vec![1; 65536], false).await?;
//! disk.flush().await?;
//! disk.disconnect().await;
//! # Ok(())
//! # }
//! ```

mod connect;
mod coverage;
mod driver;
mod error;
pub(crate) mod fuzzing;
mod handshake;
mod info;
mod pool;
mod session;
#[cfg(feature = "tls")]
mod tls;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use error::{ClientError, Refusal};
pub use info::{ConnectOptions, RemoteInfo};
pub use pool::ClientPool;

use crate::export::{StatusExtent, ZeroFlags};
use crate::wire::{cmd, cmd_flags};
use driver::{Message, Shared, Ticket};
use session::{Answer, Asked, Into_, Target};

type Result<T> = std::result::Result<T, ClientError>;

/// The longest request without a payload that a 32-bit length can carry, in whole 64 KiB.
const MAX_COMPACT: u64 = (u32::MAX as u64) & !0xffff;

/// Extents that one [`Client::map`] takes: more than a disk of 64 GiB in blocks of 64 KiB can have.
const MAX_EXTENTS: usize = 1 << 20;

/// A handle to one connection to one export.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    info: RemoteInfo,
    /// The server's number of each of `info.contexts`.
    context_ids: Vec<u32>,
    calls: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: u32,
    max_payload: u64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("info", &self.inner.info)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// What the server told about the export.
    pub fn info(&self) -> &RemoteInfo {
        &self.inner.info
    }

    /// Why the connection ended; `None` while it lives.
    pub fn ended(&self) -> Option<ClientError> {
        self.inner
            .calls
            .is_closed()
            .then(|| self.inner.shared.ended())
    }

    /// Reads `len` bytes.
    pub async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        self.check(cmd::READ, at, len as u64)?;
        self.read_into(at, vec![0; len]).await
    }

    /// Fills a buffer of the caller's, the whole of it, and gives it back: no copy is made, and an
    /// aligned buffer stays one. With an error the buffer is lost.
    pub async fn read_into<B>(&self, at: u64, mut buffer: B) -> Result<B>
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let len = buffer.as_mut().len();
        self.check(cmd::READ, at, len as u64)?;
        let buffer = Arc::new(Mutex::new(buffer));
        let parts = split(len as u64, self.inner.max_payload).map(|(start, part)| {
            let target: Target = buffer.clone();
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let into = Some(Into_ { target, start });
            self.call(cmd::READ, 0, at + start as u64, part, Bytes::new(), into)
        });
        all(parts).await?;
        // Every part was answered and has let go of it.
        let buffer = Arc::into_inner(buffer).ok_or(ClientError::Closed)?;
        Ok(buffer.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes bytes that are moved in, not copied: a `Vec<u8>`, or whatever [`Bytes`] can own. With
    /// `fua` the reply comes when they are on stable storage.
    pub async fn write(&self, at: u64, data: impl Into<Bytes>, fua: bool) -> Result<()> {
        let data = data.into();
        self.check(cmd::WRITE, at, data.len() as u64)?;
        let (flags, then_flush) = self.fua(fua);
        let parts = split(data.len() as u64, self.inner.max_payload).map(|(start, len)| {
            let from = usize::try_from(start).unwrap_or(usize::MAX);
            let to = usize::try_from(start + len).unwrap_or(usize::MAX);
            self.call(
                cmd::WRITE,
                flags,
                at + start,
                len,
                data.slice(from..to),
                None,
            )
        });
        all(parts).await?;
        self.then_flush(then_flush).await
    }

    /// Makes a range of any length read as zeroes.
    pub async fn write_zeroes(&self, at: u64, len: u64, how: ZeroFlags, fua: bool) -> Result<()> {
        let (mut flags, then_flush) = self.fua(fua);
        if how.no_hole {
            flags |= cmd_flags::NO_HOLE;
        }
        if how.fast {
            if !self.info().can_fast_zero() {
                return Err(not_sent(cmd::WRITE_ZEROES, at, "FAST_ZERO is not offered"));
            }
            flags |= cmd_flags::FAST_ZERO;
        }
        self.plain(cmd::WRITE_ZEROES, flags, at, len).await?;
        self.then_flush(then_flush).await
    }

    /// Says that a range's content is no longer needed.
    pub async fn trim(&self, at: u64, len: u64) -> Result<()> {
        self.plain(cmd::TRIM, 0, at, len).await
    }

    /// Puts on stable storage what was replied before.
    pub async fn flush(&self) -> Result<()> {
        if !self.info().can_flush() {
            return Err(not_sent(cmd::FLUSH, 0, "the export offers no FLUSH"));
        }
        self.call(cmd::FLUSH, 0, 0, 0, Bytes::new(), None).await?;
        Ok(())
    }

    /// The extents of a negotiated context from `at` on: at least one, together at most `len`
    /// bytes; a server may tell fewer than asked for. See [`map`](Self::map) for all of them.
    /// Every extent is of whole minimum blocks, except where the disk ends; a server that tells
    /// others has broken the protocol.
    pub async fn block_status(
        &self,
        context: &str,
        at: u64,
        len: u64,
    ) -> Result<Vec<StatusExtent>> {
        let which = self.info().contexts.iter().position(|c| c == context);
        let Some(id) = which.and_then(|i| self.inner.context_ids.get(i)) else {
            let why = "the metadata context was not negotiated";
            return Err(not_sent(cmd::BLOCK_STATUS, at, why));
        };
        self.check(cmd::BLOCK_STATUS, at, len)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let len = self.longest(len);
        let answer = self
            .call(cmd::BLOCK_STATUS, 0, at, len, Bytes::new(), None)
            .await?;
        let extents = answer
            .into_iter()
            .find_map(|(found, extents)| (found == *id).then_some(extents))
            .ok_or(ClientError::protocol("a block status without its context"))?;
        let (unit, size) = (u64::from(self.info().block_size.minimum), self.info().size);
        let mut end = at;
        for extent in &extents {
            end = end.saturating_add(extent.len);
            if unit > 1 && end != size && !extent.len.is_multiple_of(unit) {
                return Err(ClientError::protocol("an extent of broken blocks"));
            }
        }
        Ok(extents)
    }

    /// All extents of a range, in order and merged, as `(offset, extent)`.
    ///
    /// # Errors
    /// Also [`ClientError::TooManyExtents`] where the server tells more than 1048576 for the range:
    /// ask for a part of it at a time.
    pub async fn map(&self, context: &str, at: u64, len: u64) -> Result<Vec<(u64, StatusExtent)>> {
        self.check(cmd::BLOCK_STATUS, at, len)?;
        let (mut next, end) = (at, at + len);
        let mut found: Vec<(u64, StatusExtent)> = Vec::new();
        let mut told = 0;
        while next < end {
            // Each answer holds an extent, and no extent is empty: this advances.
            let extents = self.block_status(context, next, end - next).await?;
            // Also those that merge: a byte at a time would take for ever.
            told += extents.len();
            if told > MAX_EXTENTS {
                return Err(ClientError::TooManyExtents {
                    at,
                    len,
                    most: MAX_EXTENTS,
                });
            }
            for extent in extents {
                match found.last_mut() {
                    Some((_, last)) if last.flags == extent.flags => last.len += extent.len,
                    _ => found.push((next, extent)),
                }
                next += extent.len;
            }
        }
        Ok(found)
    }

    /// Waits for the replies to all that was sent, says DISC and closes. Later calls, also of other
    /// handles, fail with [`ClientError::Closed`]. Says nothing about durability: flush before.
    pub async fn disconnect(&self) {
        let (left, done) = oneshot::channel();
        if self.inner.calls.send(Message::Disconnect(left)).is_ok() {
            let _ = done.await;
        }
    }

    /// The flag for FUA, and whether a FLUSH must stand in for it.
    fn fua(&self, fua: bool) -> (u16, bool) {
        match (fua, self.info().can_fua()) {
            (false, _) => (0, false),
            (true, true) => (cmd_flags::FUA, false),
            (true, false) => (0, true),
        }
    }

    async fn then_flush(&self, wanted: bool) -> Result<()> {
        if wanted { self.flush().await } else { Ok(()) }
    }

    /// A request without a payload, of any length.
    async fn plain(&self, command: u16, flags: u16, at: u64, len: u64) -> Result<()> {
        self.check(command, at, len)?;
        let longest = self.longest(u64::MAX);
        all(split(len, longest)
            .map(|(start, part)| self.call(command, flags, at + start, part, Bytes::new(), None)))
        .await
    }

    /// The longest length that a request without a payload can carry, up to `len`.
    fn longest(&self, len: u64) -> u64 {
        if self.info().extended_headers {
            len
        } else {
            len.min(MAX_COMPACT)
        }
    }

    /// Refuses what the server would, and what it must never see.
    fn check(&self, command: u16, at: u64, len: u64) -> Result<()> {
        let info = self.info();
        let writes = matches!(command, cmd::WRITE | cmd::WRITE_ZEROES | cmd::TRIM);
        let unit = u64::from(info.block_size.minimum);
        let why: Cow<'static, str> = if at.checked_add(len).is_none_or(|end| end > info.size) {
            let size = info.size;
            format!("{len} bytes from there leave the disk of {size} bytes").into()
        } else if !at.is_multiple_of(unit) || !len.is_multiple_of(unit) {
            format!("{len} bytes from there are not in whole blocks of {unit} bytes").into()
        } else if writes && info.read_only() {
            "the export is read-only".into()
        } else if command == cmd::TRIM && !info.can_trim() {
            "the export offers no TRIM".into()
        } else if command == cmd::WRITE_ZEROES && !info.can_zero() {
            "the export offers no WRITE_ZEROES".into()
        } else {
            return Ok(());
        };
        Err(not_sent(command, at, why))
    }

    /// Sends one request as it is, and waits for its answer.
    async fn call(
        &self,
        command: u16,
        flags: u16,
        at: u64,
        len: u64,
        payload: Bytes,
        into: Option<Into_>,
    ) -> Result<Vec<(u32, Vec<StatusExtent>)>> {
        let inner = &*self.inner;
        let heavy = matches!(command, cmd::READ | cmd::WRITE);
        let weight = u32::try_from(len).unwrap_or(u32::MAX).min(inner.max_bytes);
        let weight = if heavy { weight } else { 0 };
        // Never closed, so never an error; the task's end is seen at the channel.
        let closed = |_| ClientError::Closed;
        let bytes = inner.bytes.clone().acquire_many_owned(weight).await;
        let request = inner.requests.clone().acquire_owned().await;
        let permits = (request.map_err(closed)?, bytes.map_err(closed)?);
        let (done, answer) = oneshot::channel();
        let message = Message::Call {
            asked: Asked {
                command,
                flags,
                offset: at,
                len,
            },
            payload,
            into,
            ticket: Ticket { done, permits },
        };
        if inner.calls.send(message).is_err() {
            return Err(inner.shared.ended());
        }
        let answer: Answer = match answer.await {
            Ok(answer) => answer?,
            Err(_) => return Err(inner.shared.ended()),
        };
        answer.map_err(|(error, message)| ClientError::Remote {
            command: name(command),
            at,
            error,
            message,
        })
    }
}

/// Cuts `len` bytes into pieces `(start, len)`; none for no bytes.
fn split(len: u64, longest: u64) -> impl Iterator<Item = (u64, u64)> {
    let longest = longest.max(1);
    let mut start = 0;
    std::iter::from_fn(move || {
        let part = (len - start).min(longest);
        let piece = (part > 0).then_some((start, part));
        start += part;
        piece
    })
}

/// Waits for every part, also behind a failed one: what is still in flight when a call returns
/// could overtake the caller's next write. The first error counts.
async fn all<F, T>(parts: impl Iterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<T>>,
{
    let done: Result<Vec<T>> = join_all(parts).await.into_iter().collect();
    done.map(drop)
}

fn not_sent(command: u16, at: u64, why: impl Into<Cow<'static, str>>) -> ClientError {
    ClientError::Request {
        command: name(command),
        at,
        why: why.into(),
    }
}

const fn name(command: u16) -> &'static str {
    match command {
        cmd::READ => "READ",
        cmd::WRITE => "WRITE",
        cmd::FLUSH => "FLUSH",
        cmd::TRIM => "TRIM",
        cmd::WRITE_ZEROES => "WRITE_ZEROES",
        _ => "BLOCK_STATUS",
    }
}
