//! What was received and not yet used: headers, small payloads, the start of a large one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Read at once while requests are small: many headers and payloads come in one call.
pub(super) const AHEAD: usize = 64 << 10;

/// A fixed run of bytes with a used front and an empty back.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: vec![0; AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }
}

impl Inbox {
    /// What is there.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `len` bytes of it.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = self.start.saturating_add(len).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves as much as fits into `to`; how much that was.
    pub(super) fn move_into(&mut self, to: &mut [u8]) -> usize {
        let data = self.data();
        let len = data.len().min(to.len());
        if let (Some(to), Some(from)) = (to.get_mut(..len), data.get(..len)) {
            to.copy_from_slice(from);
        }
        self.consume(len);
        len
    }

    /// Receives at most `most` bytes behind what is there; 0 is the end of the stream.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() - self.end < most && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let stop = self.end.saturating_add(most).min(self.bytes.len());
        let room = self.bytes.get_mut(self.end..stop).unwrap_or_default();
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
        let len = buf.filled().len();
        self.end += len;
        Poll::Ready(Ok(len))
    }
}
