//! Replies on their way: headers gathered, data lent by the pool, one vectored send per batch.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;

use super::stall::Stall;

/// Slices of one send.
const SLICES: usize = 32;
/// A run of headers is closed at this length.
const RUN: usize = 32 << 10;
/// Receiving waits while more bytes of headers than this are unsent.
pub(super) const FULL: usize = 256 << 10;

enum Piece<B> {
    Small(Vec<u8>),
    Data {
        buf: B,
        _permit: OwnedSemaphorePermit,
    },
    /// Something long that is no lent buffer, bounded like one.
    Long {
        bytes: Vec<u8>,
        _permit: OwnedSemaphorePermit,
    },
}

impl<B: AsRef<[u8]>> Piece<B> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) | Self::Long { bytes, .. } => bytes,
            Self::Data { buf, .. } => buf.as_ref(),
        }
    }
}

pub(super) struct Outbox<B> {
    pieces: VecDeque<Piece<B>>,
    /// Bytes of the first piece that were sent.
    sent: usize,
    /// Bytes of small pieces that are unsent.
    small: usize,
    /// While a long simple reply is streamed nothing may come between its parts: what else
    /// becomes ready waits here. It holds no buffers (see `read`).
    held: Option<Vec<u8>>,
    spare: Vec<u8>,
    unflushed: bool,
    dead: bool,
    pub(super) stall: Stall,
}

impl<B: AsRef<[u8]>> Outbox<B> {
    pub(super) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            sent: 0,
            small: 0,
            held: None,
            spare: Vec::new(),
            unflushed: false,
            dead: false,
            stall: Stall::default(),
        }
    }

    /// Appends a whole small reply.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(held) = &mut self.held {
            let before = held.len();
            write(held);
            self.small += held.len() - before;
        } else {
            self.small_piece(write);
        }
    }

    /// Appends headers of the reply that holds the stream, or of any.
    fn small_piece(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.dead {
            return;
        }
        let open = matches!(self.pieces.back(), Some(Piece::Small(run)) if run.len() < RUN);
        if !open {
            self.pieces
                .push_back(Piece::Small(std::mem::take(&mut self.spare)));
        }
        if let Some(Piece::Small(run)) = self.pieces.back_mut() {
            let before = run.len();
            write(run);
            self.small += run.len() - before;
        }
    }

    /// Appends a header and the data that belongs to it.
    pub(super) fn data(
        &mut self,
        header: impl FnOnce(&mut Vec<u8>),
        buf: B,
        permit: OwnedSemaphorePermit,
    ) {
        self.small_piece(header);
        if !self.dead && !buf.as_ref().is_empty() {
            self.pieces.push_back(Piece::Data {
                buf,
                _permit: permit,
            });
        }
    }

    /// Appends a long reply of our own making.
    pub(super) fn long(&mut self, bytes: Vec<u8>, permit: OwnedSemaphorePermit) {
        if !self.dead && !bytes.is_empty() {
            self.pieces.push_back(Piece::Long {
                bytes,
                _permit: permit,
            });
        }
    }

    /// From here to [`release`](Self::release) only [`data`](Self::data) reaches the stream.
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Lets go what waited.
    pub(super) fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.small -= held.len();
            self.small_piece(|run| run.extend_from_slice(&held));
        }
    }

    /// Nothing more can be sent: what waits and what comes is thrown away.
    pub(super) fn kill(&mut self) {
        self.pieces.clear();
        (self.sent, self.small) = (0, 0);
        self.held = None;
        self.unflushed = false;
        self.dead = true;
        self.stall.finished();
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dead
    }

    pub(super) const fn is_full(&self) -> bool {
        self.small > FULL
    }

    /// Sends until nothing is left or the peer takes no more. `true` where something was sent.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<bool>> {
        let mut moved = false;
        while !self.pieces.is_empty() {
            let sent = match self.poll_once(cx, stream) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    self.stall.waiting();
                    return if moved {
                        Poll::Ready(Ok(true))
                    } else {
                        Poll::Pending
                    };
                }
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stall.moved(sent);
            self.drop_front(sent);
            self.unflushed = true;
            moved = true;
        }
        self.stall.finished();
        if self.unflushed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => {
                    self.stall.waiting();
                    return if moved {
                        Poll::Ready(Ok(true))
                    } else {
                        Poll::Pending
                    };
                }
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(moved))
    }

    fn poll_once<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        let first = self.pieces.front().map(Piece::bytes).unwrap_or_default();
        let first = first.get(self.sent..).unwrap_or_default();
        if self.pieces.len() == 1 || !stream.is_write_vectored() {
            return Pin::new(stream).poll_write(cx, first);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let rest = self.pieces.iter().skip(1).map(Piece::bytes);
        let mut used = 0;
        for (slot, bytes) in slices.iter_mut().zip(std::iter::once(first).chain(rest)) {
            *slot = IoSlice::new(bytes);
            used += 1;
        }
        let sent = ready!(
            Pin::new(stream).poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
        );
        Poll::Ready(sent)
    }

    fn drop_front(&mut self, mut bytes: usize) {
        while let Some(front) = self.pieces.front() {
            let left = front.bytes().len() - self.sent;
            if bytes < left {
                self.sent += bytes;
                return;
            }
            bytes -= left;
            self.sent = 0;
            if let Some(Piece::Small(mut run)) = self.pieces.pop_front() {
                self.small = self.small.saturating_sub(run.len());
                run.clear();
                if run.capacity() > self.spare.capacity() {
                    self.spare = run;
                }
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.pieces.is_empty() && !self.unflushed
    }
}
