//! The data plane: a few threads that move bytes, the listeners, and the exports they serve.
//!
//! Each thread is single-threaded inside; a connection stays on the thread that was given it.
//! Nothing depends on which: a [`Source`] is shared by all. A panic in one connection cuts that
//! connection and nothing else.

mod connection;
mod listen;
mod source;
mod worker;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sendense_nbd::registry::Registry;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Semaphore, oneshot, watch};

pub use listen::{ListenerPolicy, bind_unix};
pub use source::{AttachedExport, DynExport, Source};
use worker::{Task, Worker};

use crate::io::{Io, IoConfig, IoEngine};

/// The exports that the data plane serves.
pub type ExportRegistry = Registry<Arc<dyn Source>>;

/// How a [`Plane`] is made.
#[derive(Debug, Clone)]
pub struct PlaneConfig {
    /// Threads that move bytes, at least one.
    pub threads: usize,
    /// What each of them does I/O with.
    pub io: IoConfig,
    /// Connections at a time, over all listeners; one more is closed at once.
    pub max_connections: usize,
}

impl Default for PlaneConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: cores.min(8),
            io: IoConfig::default(),
            max_connections: 512,
        }
    }
}

/// Ends when the plane is asked to stop.
#[derive(Debug, Clone)]
struct Stop(watch::Receiver<bool>);

impl Stop {
    async fn asked(&mut self) {
        // A plane that is gone has stopped.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// What listeners and callers share.
#[derive(Debug)]
struct Shared {
    registry: Arc<ExportRegistry>,
    /// Emptied at the stop, so that the threads see their last sender go.
    threads: Mutex<Vec<UnboundedSender<Task>>>,
    next: AtomicUsize,
    seats: Arc<Semaphore>,
    max_connections: usize,
    stop: watch::Sender<bool>,
}

impl Shared {
    fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Gives a task to the next thread; `false` where the plane has stopped.
    fn give(&self, task: Task) -> bool {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let thread = next.checked_rem(threads.len()).and_then(|i| threads.get(i));
        thread.is_some_and(|t| t.send(task).is_ok())
    }

    /// Says that the end has come; running work is not waited for.
    fn ask_to_stop(&self) {
        self.stop.send_replace(true);
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The work was given up: the plane stopped, or the work itself panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data plane gave up the work: it stops, or the work failed badly")]
pub struct GivenUp;

/// The running data plane. Dropping it stops it without waiting; [`shutdown`](Self::shutdown)
/// waits.
pub struct Plane {
    shared: Arc<Shared>,
    workers: Mutex<Vec<Worker>>,
    engine: IoEngine,
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane")
            .field("engine", &self.engine)
            .field("registry", &self.shared.registry)
            .finish_non_exhaustive()
    }
}

impl Plane {
    /// Starts the threads. Nothing listens yet.
    ///
    /// # Errors
    /// Where a thread cannot be made, or cannot set up its runtime or its I/O.
    pub fn start(config: PlaneConfig) -> io::Result<Self> {
        let mut workers = Vec::new();
        for index in 0..config.threads.max(1) {
            workers.push(Worker::start(index, config.io.clone())?);
        }
        let engine = workers.first().map_or(IoEngine::Plain, Worker::engine);
        let max_connections = config.max_connections.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            shared: Arc::new(Shared {
                registry: Arc::new(ExportRegistry::new()),
                threads: Mutex::new(workers.iter().map(Worker::sender).collect()),
                next: AtomicUsize::new(0),
                seats: Arc::new(Semaphore::new(max_connections)),
                max_connections,
                stop: watch::Sender::new(false),
            }),
            workers: Mutex::new(workers),
            engine,
        })
    }

    /// The exports.
    pub fn registry(&self) -> &Arc<ExportRegistry> {
        &self.shared.registry
    }

    /// How files are read and written here.
    pub fn engine(&self) -> IoEngine {
        self.engine
    }

    /// Serves a bound TCP socket until the stop.
    pub fn listen_tcp(&self, listener: std::net::TcpListener, policy: ListenerPolicy) {
        let (shared, stop) = (Arc::clone(&self.shared), self.shared.stop());
        self.shared.give(Box::new(move |_| {
            Box::pin(listen::accept_tcp(listener, policy, shared, stop))
        }));
    }

    /// Serves a bound unix socket until the stop; [`bind_unix`] makes one.
    pub fn listen_unix(&self, listener: std::os::unix::net::UnixListener, policy: ListenerPolicy) {
        let (shared, stop) = (Arc::clone(&self.shared), self.shared.stop());
        self.shared.give(Box::new(move |_| {
            Box::pin(listen::accept_unix(listener, policy, shared, stop))
        }));
    }

    /// Runs `work` on one of the threads, with its [`Io`]. The future that comes back may be
    /// awaited anywhere; dropping it does not end the work.
    pub fn spawn<F, W, T>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T, GivenUp>> + Send + use<F, W, T>
    where
        F: FnOnce(Io) -> W + Send + 'static,
        W: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.shared.give(Box::new(move |io| {
            Box::pin(async move {
                let done = work(io).await;
                // Whoever asked may have gone.
                let _ = tell.send(done);
            })
        }));
        async move { told.await.map_err(|_| GivenUp) }
    }

    /// Stops listening, cuts the connections, waits for spawned work and ends the threads. Blocks.
    pub fn shutdown(&self) {
        self.shared.ask_to_stop();
        let workers =
            std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            worker.join();
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shared.ask_to_stop();
    }
}

#[cfg(test)]
mod tests;
