//! READ and BLOCK_STATUS: memory bounded whatever is asked.
//!
//! A READ is cut into runs that fit one buffer. In structured form each run is a chunk of its own,
//! a few are read at a time, and each leaves as soon as it is there: nothing holds one buffer while
//! it waits for another. In simple form the runs must leave in order with nothing between them,
//! so such a READ takes `order` alone: then no other READ holds a buffer that could not leave.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::receive::permit;
use crate::buffer::{BufferPool, Purpose};
use crate::error::NbdError;
use crate::export::Export;
use crate::handshake::ReplyMode;
use crate::meta::clip;
use crate::session::{Call, Command};
use crate::wire::STATE_ZERO;

/// Runs of one READ that are read at a time.
const AT_ONCE: usize = 4;
/// A shorter READ is not worth asking for holes.
const SPARSE_READ: u64 = 64 << 10;
/// A shorter hole is not worth a chunk.
const SPARSE_HOLE: u64 = 32 << 10;
/// Extents that are looked at for holes.
const SPARSE_EXTENTS: usize = 128;

/// A BLOCK_STATUS reply up to this length goes out with the other small ones.
const SHORT_STATUS: usize = 1024;

/// One chunk of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    at: u64,
    len: u64,
    hole: bool,
}

impl<S, P, X> Connection<S, P, X>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    pub(super) async fn read(&self, call: &Call) {
        let whole = matches!(call.command, Command::Read { whole: true });
        let fits = self.cut(call.at, call.at.saturating_add(call.len)) == call.at + call.len;
        match self.session.mode() {
            ReplyMode::Simple if fits => self.read_simple(call).await,
            ReplyMode::Simple => self.read_streamed(call).await,
            _ if whole && !fits => {
                let why = "too long for one chunk: ask without DF, or for less";
                self.fail((call.cookie, call.at), NbdError::Overflow, why, None);
            }
            _ => {
                let runs = self.runs(call, whole).await;
                match runs.as_slice() {
                    [only] => {
                        let result = self.run_chunk(call, *only, true).await;
                        self.read_failed(call, result.err());
                    }
                    _ => self.read_chunks(call, &runs).await,
                }
            }
        }
    }

    fn read_failed(&self, call: &Call, failed: Option<(NbdError, u64)>) {
        if let Some((error, at)) = failed {
            self.fail((call.cookie, call.at), error, &error.to_string(), Some(at));
        }
    }

    /// Reads into a lent buffer.
    async fn fetch(
        &self,
        at: u64,
        len: u64,
    ) -> Result<(P::Buf, OwnedSemaphorePermit), (NbdError, u64)> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let permit = permit(&self.replies, len).await;
        let buf = self.pool.take(len, Purpose::Reply).await;
        let done = self.export.read(at, buf).await;
        match done.result {
            Ok(()) => {
                self.count(|counts| counts.bytes_read += len as u64);
                Ok((done.buf, permit))
            }
            Err(error) => Err((error, at)),
        }
    }

    async fn read_simple(&self, call: &Call) {
        let _shared = Arc::clone(&self.order).read_owned().await;
        match self.fetch(call.at, call.len).await {
            Ok((buf, permit)) => {
                let len = buf.as_ref().len();
                let header = |out: &mut Vec<u8>| self.session.data(out, call, call.at, len, true);
                self.outbox.borrow_mut().data(header, buf, permit);
            }
            Err(failed) => self.read_failed(call, Some(failed)),
        }
    }

    async fn read_streamed(&self, call: &Call) {
        let _alone = Arc::clone(&self.order).write_owned().await;
        let end = call.at.saturating_add(call.len);
        let mut at = call.at;
        while at < end && !self.outbox.borrow().is_dead() {
            let stop = self.cut(at, end);
            match self.fetch(at, stop - at).await {
                Ok((buf, permit)) => {
                    let len = buf.as_ref().len();
                    let header = |out: &mut Vec<u8>| {
                        if at == call.at {
                            self.session.data(out, call, at, len, true);
                        }
                    };
                    let mut outbox = self.outbox.borrow_mut();
                    outbox.hold();
                    outbox.data(header, buf, permit);
                }
                Err(failed) if at == call.at => {
                    self.read_failed(call, Some(failed));
                    return;
                }
                Err(_) => {
                    // The reply has begun and has no place for an error.
                    self.count(|counts| counts.errors += 1);
                    self.fatal.set(true);
                    return;
                }
            }
            at = stop;
        }
        self.outbox.borrow_mut().release();
    }

    async fn read_chunks(&self, call: &Call, runs: &[Run]) {
        let mut reading = FuturesUnordered::new();
        let mut runs = runs.iter();
        let mut failed = None;
        loop {
            while failed.is_none() && reading.len() < AT_ONCE && !self.outbox.borrow().is_dead() {
                let Some(run) = runs.next() else { break };
                reading.push(self.run_chunk(call, *run, false));
            }
            match reading.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => failed = failed.or(Some(error)),
                None => break,
            }
        }
        if failed.is_some() {
            self.read_failed(call, failed);
        } else {
            self.outbox.borrow_mut().reply(|out| {
                self.session.success(out, call.cookie, call.at, true);
            });
        }
    }

    async fn run_chunk(&self, call: &Call, run: Run, last: bool) -> Result<(), (NbdError, u64)> {
        if run.hole {
            let len = u32::try_from(run.len).unwrap_or(u32::MAX);
            self.outbox
                .borrow_mut()
                .reply(|out| self.session.hole(out, call, run.at, len, last));
            return Ok(());
        }
        let (buf, permit) = self.fetch(run.at, run.len).await?;
        let len = buf.as_ref().len();
        let header = |out: &mut Vec<u8>| self.session.data(out, call, run.at, len, last);
        self.outbox.borrow_mut().data(header, buf, permit);
        Ok(())
    }

    /// What a READ is cut into: holes where the export says that it is zero, data else.
    async fn runs(&self, call: &Call, whole: bool) -> Vec<Run> {
        let end = call.at.saturating_add(call.len);
        let mut runs = Vec::new();
        if whole || !self.limits.sparse_reads || call.len < SPARSE_READ {
            self.data_runs(&mut runs, call.at, end);
            return runs;
        }
        let found = self
            .export
            .block_status(0, call.at, call.len, SPARSE_EXTENTS)
            .await;
        // Without an answer all of it is data: reading tells what is wrong.
        let found = found
            .ok()
            .and_then(|found| clip(found, call.len, SPARSE_EXTENTS));
        let (mut at, mut data_from) = (call.at, call.at);
        for extent in found.unwrap_or_default() {
            if extent.flags & STATE_ZERO != 0 && extent.len >= SPARSE_HOLE {
                self.data_runs(&mut runs, data_from, at);
                runs.push(Run {
                    at,
                    len: extent.len,
                    hole: true,
                });
                data_from = at + extent.len;
            }
            at += extent.len;
        }
        self.data_runs(&mut runs, data_from, end);
        runs
    }

    fn data_runs(&self, runs: &mut Vec<Run>, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let stop = self.cut(at, to);
            runs.push(Run {
                at,
                len: stop - at,
                hole: false,
            });
            at = stop;
        }
    }

    pub(super) async fn status(&self, call: &Call, one: bool) {
        let most = if one {
            1
        } else {
            self.limits.status_extents.max(1)
        };
        let contexts = self.session.contexts();
        // Sixteen bytes an extent in extended form; what is not used is given back below.
        let bytes = most.saturating_mul(16).saturating_mul(contexts.len());
        let mut permit = permit(
            &self.replies,
            bytes.clamp(1, self.limits.reply_bytes.max(1)),
        )
        .await;
        let mut reply = Vec::new();
        for (index, context) in contexts.iter().enumerate() {
            let found = self
                .export
                .block_status(*context, call.at, call.len, most)
                .await;
            let found = found.and_then(|found| clip(found, call.len, most).ok_or(NbdError::Io));
            match found {
                Ok(extents) => {
                    let last = index + 1 == contexts.len();
                    self.session
                        .status(&mut reply, call, *context, &extents, last);
                }
                Err(error) => {
                    // Nothing of this reply has left: the error is all of it.
                    self.fail((call.cookie, call.at), error, &error.to_string(), None);
                    return;
                }
            }
        }
        if reply.len() <= SHORT_STATUS {
            self.outbox
                .borrow_mut()
                .reply(|out| out.extend_from_slice(&reply));
        } else {
            let permit = permit.split(reply.len()).unwrap_or(permit);
            self.outbox.borrow_mut().long(reply, permit);
        }
    }
}
