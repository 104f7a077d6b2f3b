//! The data plane: a few threads that serve NBD connections and run whatever moves bytes.
//!
//! ```text
//!   listeners ──accept──> thread 1: tokio current_thread + LocalSet + Io ──> connections, spawned work
//!                    └──> thread 2: ...                                       (each stays on its thread)
//! ```
//! A connection is one task, with a quota of its thread's buffers; what it opens comes from the one
//! registry. A panic ends the task that it is in, nothing else. What is over a limit is refused at
//! once and logged. Names of exports may be capabilities: none is logged here.

mod connection;
mod listen;
mod source;
mod spawn;
mod thread;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sendense_nbd::Limits;
use sendense_nbd::registry::Registry;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::io::{Io, IoConfig, IoEngine};
pub use listen::{ListenerHandle, ListenerPolicy, bind_unix};
pub use source::{AttachedExport, DynExport, Source};
pub use spawn::{SpawnError, Spawned};
use thread::Thread;

/// The exports of a plane.
pub type ExportRegistry = Registry<Arc<dyn Source>>;

/// Connections beyond the limit that are answered at a time, to say why they are refused.
const REFUSALS: usize = 16;

/// How a plane is made.
#[derive(Debug, Clone)]
pub struct PlaneConfig {
    /// Data threads, at least 1.
    pub threads: usize,
    /// The buffers and the engine of each.
    pub io: IoConfig,
    /// NBD connections at a time, over all listeners.
    pub max_connections: usize,
    /// What one connection may cost.
    pub limits: Limits,
}

impl Default for PlaneConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: cores.clamp(1, 4),
            io: IoConfig::default(),
            max_connections: 256,
            limits: Limits::default(),
        }
    }
}

/// Where the plane is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Open for all.
    Serving,
    /// No new connections, exports or work; what runs goes on.
    Closing,
    /// Connections are cut.
    Cutting,
}

/// What threads, listeners and the handle share.
struct Shared {
    registry: Arc<ExportRegistry>,
    limits: Limits,
    /// A permit for each connection that may still come.
    seats: Arc<Semaphore>,
    max_connections: usize,
    /// A permit for each connection beyond those that may still be told so.
    refusals: Arc<Semaphore>,
    connections: watch::Sender<usize>,
    /// Spawned work that has not ended.
    work: watch::Sender<usize>,
    phase: watch::Sender<Phase>,
    threads: Vec<thread::Sender>,
    next: AtomicUsize,
}

impl Shared {
    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The next thread in turn.
    fn a_thread(&self) -> Option<&thread::Sender> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.threads.get(turn.checked_rem(self.threads.len())?)
    }
}

/// Counts itself while it lives.
struct Counted {
    shared: Arc<Shared>,
    counter: fn(&Shared) -> &watch::Sender<usize>,
}

impl Counted {
    fn new(shared: &Arc<Shared>, counter: fn(&Shared) -> &watch::Sender<usize>) -> Self {
        counter(shared).send_modify(|count| *count += 1);
        Self {
            shared: Arc::clone(shared),
            counter,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.shared).send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// The data plane. Dropping it cuts what runs and waits for the threads to end;
/// [`shutdown`](Self::shutdown) is the gentle way.
pub struct Plane {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Thread>>,
    engines: Vec<IoEngine>,
    buffers_registered: bool,
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane")
            .field("engines", &self.engines)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl Plane {
    /// Starts the threads.
    ///
    /// # Errors
    /// Where a thread, its runtime or its buffers cannot be made.
    pub fn start(config: PlaneConfig) -> io::Result<Self> {
        let max_connections = config.max_connections.min(Semaphore::MAX_PERMITS);
        let mut threads = Vec::new();
        for number in 0..config.threads.max(1) {
            threads.push(Thread::start(number, config.io.clone())?);
        }
        let ready: Vec<_> = threads
            .iter()
            .map(Thread::ready)
            .collect::<io::Result<_>>()?;
        let engines: Vec<IoEngine> = ready.iter().map(|ready| ready.engine).collect();
        let buffers_registered = ready.iter().all(|ready| ready.buffers_registered);
        if engines.contains(&IoEngine::Plain) {
            tracing::warn!(
                "io_uring is not to be had: files are read and written on helper threads"
            );
        } else if !buffers_registered && config.io.register_buffers {
            tracing::warn!(
                "I/O buffers are not registered with the kernel, which costs some speed: \
                 raise the limit of locked memory (RLIMIT_MEMLOCK, LimitMEMLOCK=)"
            );
        }
        let shared = Arc::new(Shared {
            registry: Arc::new(Registry::new()),
            limits: config.limits,
            seats: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            connections: watch::Sender::new(0),
            work: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Serving),
            threads: threads.iter().map(Thread::sender).collect(),
            next: AtomicUsize::new(0),
        });
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            engines,
            buffers_registered,
        })
    }

    /// The exports that connections may open.
    pub fn registry(&self) -> &Arc<ExportRegistry> {
        &self.shared.registry
    }

    /// How files are read and written, per thread.
    pub fn engines(&self) -> &[IoEngine] {
        &self.engines
    }

    /// Whether every thread's buffers are registered with its ring.
    pub fn buffers_registered(&self) -> bool {
        self.buffers_registered
    }

    /// NBD connections open now.
    pub fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Runs a future on a data thread, with that thread's [`Io`]; it need not be `Send`, only what
    /// makes it and what it gives. It runs to its end whether or not the result is waited for.
    pub fn spawn<F, Fut, T>(&self, work: F) -> Spawned<T>
    where
        F: FnOnce(Io) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (spawned, result) = spawn::pair();
        if self.shared.phase() == Phase::Serving
            && let Some(thread) = self.shared.a_thread()
        {
            let counted = Counted::new(&self.shared, |shared| &shared.work);
            thread.run(move |io| Box::pin(spawn::run(work, io, result, counted)));
        }
        spawned
    }

    /// Stops listening and refuses new exports, gives connections and spawned work `grace` to end,
    /// then cuts them, and waits for the threads.
    pub async fn shutdown(&self, grace: Duration) {
        self.raise(Phase::Closing);
        let deadline = Instant::now() + grace;
        for counter in [&self.shared.connections, &self.shared.work] {
            let mut count = counter.subscribe();
            let ended = count.wait_for(|count| *count == 0);
            if timeout_at(deadline, ended).await.is_err() {
                tracing::warn!("connections or work did not end in time and are cut");
            }
        }
        self.raise(Phase::Cutting);
        let threads = self.take_threads();
        let joined = tokio::task::spawn_blocking(move || drop(threads)).await;
        if joined.is_err() {
            tracing::error!("the data threads did not end cleanly");
        }
    }

    fn raise(&self, phase: Phase) {
        self.shared.phase.send_if_modified(|now| {
            let rises = *now < phase;
            *now = phase.max(*now);
            rises
        });
    }

    fn take_threads(&self) -> Vec<Thread> {
        std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.raise(Phase::Cutting);
        drop(self.take_threads());
    }
}

#[cfg(test)]
mod tests;
