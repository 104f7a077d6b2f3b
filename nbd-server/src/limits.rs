//! What one connection may cost: time, memory, requests in flight.

use std::time::Duration;

/// Limits of one connection. Whatever a peer sends, memory stays under the sum of
/// [`receive_bytes`](Self::receive_bytes), [`reply_bytes`](Self::reply_bytes), some 100 KiB of
/// headers, and small state per [`requests`](Self::requests).
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the whole handshake, TLS included.
    pub handshake: Duration,
    /// A half-received message or an unread reply without progress is cut after this.
    pub stall: Duration,
    /// After the peer has gone: how long operations in flight are awaited.
    pub drain: Duration,
    /// Options of one handshake; eight more are granted per export that LIST showed.
    pub options: usize,
    /// Option data that is looked at; longer data is drained and answered TOO_BIG.
    pub option_bytes: usize,
    /// Option data beyond this ends the connection.
    pub option_drain_bytes: usize,
    /// The longest WRITE payload and READ that is served. At least 32 MiB keeps old peers happy.
    pub payload: u32,
    /// A longer payload is drained up to this length and answered with an error; beyond it the
    /// connection ends.
    pub payload_drain: u64,
    /// Requests in flight.
    pub requests: usize,
    /// Bytes of WRITE payloads in flight.
    pub receive_bytes: usize,
    /// Bytes of READ data held: being read, or not yet sent.
    pub reply_bytes: usize,
    /// Extents of one context in one BLOCK_STATUS reply.
    pub status_extents: usize,
    /// READs leave out what the export says is zero, where the peer can take holes.
    pub sparse_reads: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            options: 64,
            option_bytes: 64 << 10,
            option_drain_bytes: 1 << 20,
            payload: 64 << 20,
            payload_drain: 128 << 20,
            requests: 256,
            receive_bytes: 64 << 20,
            reply_bytes: 32 << 20,
            status_extents: 32 << 10,
            sparse_reads: true,
        }
    }
}
