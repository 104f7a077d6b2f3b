//! Payload buffers: owned, moved, lent by a pool that may make a connection wait.

use std::fmt::Debug;

/// An owned run of initialised bytes that travels through the data path by move.
pub trait Buffer: AsRef<[u8]> + AsMut<[u8]> + Debug + 'static {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Debug + 'static> Buffer for T {}

/// What a buffer is wanted for; a pool keeps separate reserves, so that replies
/// can leave while receiving is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To receive the payload of a WRITE.
    Receive,
    /// To hold what a READ replies.
    Reply,
}

/// Lends buffers. One handle serves one connection, so a pool can keep a quota for each.
///
/// Waiting here is the back-pressure of the whole server: a connection without a buffer stops
/// reading its socket.
#[expect(
    async_fn_in_trait,
    reason = "connections stay on their thread: futures are !Send by design"
)]
pub trait BufferPool {
    /// The buffer that is lent.
    type Buf: Buffer;

    /// The largest buffer that [`take`](Self::take) lends, in bytes; at least 64 KiB.
    fn slot_len(&self) -> usize;

    /// Lends a buffer of exactly `len` bytes, `1 ..= slot_len()`, waiting while there is none.
    /// A dropped buffer goes back by itself.
    async fn take(&self, len: usize, purpose: Purpose) -> Self::Buf;
}

/// A pool that allocates from the heap: for examples and tests. Nothing bounds it but the
/// session's own limit of requests in flight.
#[derive(Debug, Clone, Copy)]
pub struct HeapPool {
    slot_len: usize,
}

impl HeapPool {
    /// A pool of buffers of at most `slot_len` bytes, raised to 64 KiB where it is less.
    pub const fn new(slot_len: usize) -> Self {
        Self {
            slot_len: if slot_len < 65536 { 65536 } else { slot_len },
        }
    }
}

impl Default for HeapPool {
    fn default() -> Self {
        Self::new(1 << 20)
    }
}

impl BufferPool for HeapPool {
    type Buf = Vec<u8>;

    fn slot_len(&self) -> usize {
        self.slot_len
    }

    async fn take(&self, len: usize, _purpose: Purpose) -> Vec<u8> {
        vec![0; len]
    }
}
