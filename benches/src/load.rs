//! The client's side: what is sent, and the sending.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use sendense_nbd::NbdUri;
use sendense_nbd::client::{ClientPool, ConnectOptions};

use crate::Run;

/// More than the caches hold, so that a payload is not hot from the last time it was sent.
const POOL: usize = 64 << 20;
/// The longest block.
const LONGEST: usize = 32 << 20;

/// Random bytes, and zeroes, that blocks are cut from without a copy.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    random: Bytes,
    zeroes: Bytes,
    zero_percent: u64,
}

impl Data {
    pub(crate) fn new(zero_percent: u8) -> anyhow::Result<Self> {
        let mut random = vec![0; POOL + LONGEST];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for word in random.chunks_exact_mut(8) {
            // splitmix64: no page is like another, none is zero.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(x ^ (x >> 31)).to_le_bytes());
        }
        Ok(Self {
            random: random.into(),
            zeroes: vec![0; LONGEST].into(),
            zero_percent: u64::from(zero_percent),
        })
    }

    /// The content of a block: the same in every round and for every server.
    fn block(&self, number: u64, len: usize) -> Bytes {
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        if hash % 100 < self.zero_percent {
            return self.zeroes.slice(..len);
        }
        let pages = (POOL / 4096) as u64;
        let at = usize::try_from(hash / 100 % pages).unwrap_or(0) * 4096;
        self.random.slice(at..at + len)
    }
}

/// Sends the disk, and FLUSHes; the seconds from the first WRITE to the end of the FLUSH.
pub(crate) fn push(run: &Run, data: &Data, socket: &Path) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let uri = NbdUri::unix(socket, "bench");
    let block = usize::try_from(run.block)? << 10;
    let total = (run.size << 30) / block as u64;
    let options = ConnectOptions {
        max_requests: usize::from(run.depth),
        max_bytes: block * usize::from(run.depth),
        ..ConnectOptions::default()
    };
    runtime.block_on(async {
        let connections = usize::from(run.connections);
        let pool = ClientPool::connect(&uri, connections, &options).await?;
        anyhow::ensure!(
            pool.len() == connections,
            "the server allows one connection only"
        );
        let next = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..connections * usize::from(run.depth) {
            let (client, data, next) = (pool.client().clone(), data.clone(), Arc::clone(&next));
            senders.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return Ok(());
                    }
                    let content = data.block(number, block);
                    client.write(number * block as u64, content, false).await?;
                }
            });
        }
        while let Some(sender) = senders.join_next().await {
            let sent: Result<(), sendense_nbd::client::ClientError> = sender?;
            sent.context("sending")?;
        }
        pool.flush().await?;
        let seconds = began.elapsed().as_secs_f64();
        pool.disconnect().await;
        Ok(seconds)
    })
}
