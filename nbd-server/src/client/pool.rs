//! Several connections to one export: latency costs one connection dearly, and one connection is
//! one thread on many servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;

use super::error::ClientError;
use super::info::{ConnectOptions, RemoteInfo};
use super::{Client, Result};
use crate::export::{StatusExtent, ZeroFlags};
use crate::uri::NbdUri;

/// Connections to one export that act as one disk. Calls go round robin.
#[derive(Debug, Clone)]
pub struct ClientPool {
    clients: Arc<[Client]>,
    next: Arc<AtomicUsize>,
}

impl ClientPool {
    /// Connects up to `n` times. Where the server does not promise that several connections see one
    /// disk (CAN_MULTI_CONN), it stays at one: see [`len`](Self::len).
    pub async fn connect(uri: &NbdUri, n: usize, options: &ConnectOptions) -> Result<Self> {
        let first = Client::connect(uri, options).await?;
        let more = if first.info().multi_conn() {
            n.saturating_sub(1)
        } else {
            0
        };
        let others = join_all((0..more).map(|_| Client::connect(uri, options))).await;
        let mut clients = vec![first];
        for other in others {
            clients.push(other?);
        }
        let told = |c: &Client| (c.info().size, c.info().flags, c.info().contexts.clone());
        if clients
            .windows(2)
            .any(|w| w.first().map(told) != w.last().map(told))
        {
            return Err(ClientError::protocol(
                "two connections to one export are told different things",
            ));
        }
        Ok(Self {
            clients: clients.into(),
            next: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// How many connections there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// What the server told about the export.
    pub fn info(&self) -> &RemoteInfo {
        self.pick(0).info()
    }

    /// The next connection in turn.
    pub fn client(&self) -> &Client {
        self.pick(self.next.fetch_add(1, Ordering::Relaxed))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the index is below the length, which is not 0"
    )]
    fn pick(&self, n: usize) -> &Client {
        &self.clients[n % self.clients.len()]
    }

    /// See [`Client::read`].
    pub async fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        self.client().read(at, len).await
    }

    /// See [`Client::read_into`].
    pub async fn read_into<B: AsMut<[u8]> + Send + 'static>(&self, at: u64, b: B) -> Result<B> {
        self.client().read_into(at, b).await
    }

    /// See [`Client::write`].
    pub async fn write(&self, at: u64, data: impl Into<Bytes>, fua: bool) -> Result<()> {
        self.client().write(at, data, fua).await
    }

    /// See [`Client::write_zeroes`].
    pub async fn write_zeroes(&self, at: u64, len: u64, how: ZeroFlags, fua: bool) -> Result<()> {
        self.client().write_zeroes(at, len, how, fua).await
    }

    /// See [`Client::trim`].
    pub async fn trim(&self, at: u64, len: u64) -> Result<()> {
        self.client().trim(at, len).await
    }

    /// Puts on stable storage what was replied before, on any of the connections.
    pub async fn flush(&self) -> Result<()> {
        self.client().flush().await
    }

    /// See [`Client::block_status`].
    pub async fn block_status(
        &self,
        context: &str,
        at: u64,
        len: u64,
    ) -> Result<Vec<StatusExtent>> {
        self.client().block_status(context, at, len).await
    }

    /// See [`Client::disconnect`], for each connection.
    pub async fn disconnect(&self) {
        join_all(self.clients.iter().map(Client::disconnect)).await;
    }
}
