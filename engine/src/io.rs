//! What a data-plane thread does I/O with: its buffers and its engine.
//!
//! One [`Io`] belongs to one thread; clones share it. Files are `Send` and take the `Io` of
//! whichever thread uses them.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::pool::{IoBuf, Pool, PoolConfig, SharedPool};
use crate::uring::Uring;

/// How an [`Io`] is made.
#[derive(Debug, Clone)]
pub struct IoConfig {
    /// The buffers of the thread.
    pub pool: PoolConfig,
    /// Which engine to take.
    pub engine: EngineChoice,
    /// Submissions that one call to the kernel takes.
    pub ring_entries: u32,
    /// Whether to register the buffers with the ring. They count against RLIMIT_MEMLOCK; where
    /// that is too low, all works without.
    pub register_buffers: bool,
}

impl Default for IoConfig {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            engine: EngineChoice::Auto,
            ring_entries: 128,
            register_buffers: true,
        }
    }
}

impl IoConfig {
    /// Few buffers: for tests and offline tools.
    pub fn small() -> Self {
        Self {
            pool: PoolConfig::small(),
            ring_entries: 32,
            ..Self::default()
        }
    }
}

/// The engine that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where this machine allows it, else plain.
    Auto,
    /// Plain calls only.
    Plain,
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
    engine: Engine,
    runtime: Handle,
}

/// The engine itself.
#[derive(Debug)]
pub(crate) enum Engine {
    Uring(Uring),
    Plain,
}

impl Io {
    /// A context for this thread, inside of a tokio runtime (else an error).
    pub fn new(config: IoConfig) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let pool = SharedPool::new(&config.pool);
        let engine = match config.engine {
            EngineChoice::Plain => Engine::Plain,
            EngineChoice::Auto => {
                match Uring::start(config.ring_entries, &pool, config.register_buffers) {
                    Ok(ring) => Engine::Uring(ring),
                    Err(error) => {
                        tracing::debug!(%error, "no io_uring here: going on with plain calls");
                        Engine::Plain
                    }
                }
            }
        };
        Ok(Self {
            inner: Rc::new(Inner {
                pool,
                engine,
                runtime,
            }),
        })
    }

    /// The engine in use.
    pub fn engine(&self) -> IoEngine {
        match self.inner.engine {
            Engine::Uring(_) => IoEngine::Uring,
            Engine::Plain => IoEngine::Plain,
        }
    }

    /// Whether the buffers are registered with the ring.
    pub fn buffers_registered(&self) -> bool {
        match &self.inner.engine {
            Engine::Uring(ring) => ring.registered(),
            Engine::Plain => false,
        }
    }

    pub(crate) fn raw(&self) -> &Engine {
        &self.inner.engine
    }

    /// Runs blocking work on a helper thread. Dropping the future does not stop it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self.inner.runtime.spawn_blocking(work).await {
            Ok(result) => result,
            Err(failed) => Err(io::Error::other(failed)),
        }
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
