//! What a data-plane thread does I/O with: its buffers and its engine.
//!
//! One [`Io`] belongs to one thread; clones share it. Files are `Send` and take the `Io` of
//! whichever thread uses them.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crate::pool::{IoBuf, Pool, PoolConfig, SharedPool};

/// How an [`Io`] is made.
#[derive(Debug, Clone, Default)]
pub struct IoConfig {
    /// The buffers of the thread.
    pub pool: PoolConfig,
}

impl IoConfig {
    /// Few buffers: for tests and offline tools.
    pub fn small() -> Self {
        Self {
            pool: PoolConfig::small(),
        }
    }
}

/// How files are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoEngine {
    /// Through an io_uring of this thread.
    Uring,
    /// By positioned reads and writes on helper threads.
    Plain,
}

/// The I/O context of one thread.
#[derive(Debug, Clone)]
pub struct Io {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<SharedPool>,
}

impl Io {
    /// A context for this thread, inside of a tokio runtime.
    pub fn new(config: IoConfig) -> io::Result<Self> {
        let pool = SharedPool::new(&config.pool);
        Ok(Self {
            inner: Rc::new(Inner { pool }),
        })
    }

    /// The engine in use.
    pub fn engine(&self) -> IoEngine {
        IoEngine::Plain
    }

    /// A handle to the buffers for one more connection, with a quota of its own.
    pub fn pool(&self) -> Pool {
        Pool::new(Arc::clone(&self.inner.pool))
    }

    /// A buffer of `len` bytes for internal work (fills, read-modify-write); waits while there is
    /// none. Whoever holds one must not wait for a second.
    pub async fn scratch(&self, len: usize) -> IoBuf {
        self.inner.pool.scratch(len).await
    }
}
