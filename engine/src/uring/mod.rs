//! An io_uring of one thread: reads, writes and syncs of owned buffers, driven by one task.
//!
//! - [`setup`](self::setup) makes the kernel's ring and registers the pool's memory,
//! - [`job`](self::job) is one request: its file, its buffer, its parts and how far they are,
//! - [`ring`](self::ring) holds the jobs and passes their parts to the kernel,
//! - [`driver`](self::driver) is the task that submits once for all that was asked meanwhile, and
//!   hands out completions when the ring's eventfd rings.
//!
//! Invariant: from the push of a part to its completion, the ring owns the job's buffer and file,
//! whatever becomes of the future that waits for it. Nothing else may touch the buffer meanwhile.

mod driver;
mod job;
mod ring;
mod setup;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::pool::{IoBuf, SharedPool};
pub(crate) use job::Part;
use job::{Job, Work};
use ring::Ring;

/// A handle to the ring of this thread. Dropping it lets the driver end once all jobs have.
pub(crate) struct Uring {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    /// Wakes the driver; `None` before its first turn.
    driver: Option<Waker>,
    /// The handle is gone: the driver ends when nothing is in flight.
    closing: bool,
    /// The driver is gone (the runtime ended): nothing would complete any more.
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uring {
    /// Makes a ring and starts its driver on the current tokio runtime. An error means that this
    /// machine gives us no ring; everything works without.
    pub(crate) fn start(entries: u32, pool: &Arc<SharedPool>, register: bool) -> io::Result<Self> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        // Only a runtime of one thread polls the driver where the ring was made.
        let one_thread = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        Self::start_with(&runtime, entries, pool, register, one_thread)
    }

    fn start_with(
        runtime: &Handle,
        entries: u32,
        pool: &Arc<SharedPool>,
        register: bool,
        one_thread: bool,
    ) -> io::Result<Self> {
        let kernel = setup::build(entries, one_thread)?;
        let bell = setup::bell(&kernel)?;
        let registered = register.then(|| setup::register(&kernel, pool)).flatten();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ring: Ring::new(kernel, registered),
                driver: None,
                closing: false,
                stopped: false,
            }),
        });
        driver::spawn(runtime, Arc::clone(&shared), bell)?;
        Ok(Self { shared })
    }

    /// Whether the pool's memory is registered with the ring.
    pub(crate) fn registered(&self) -> bool {
        self.shared.lock().ring.registered()
    }

    /// Reads into the parts of the buffer's whole memory. What lies behind the end of the file is
    /// zeroed; `align` is the file's unit of direct I/O, 1 where it is buffered.
    pub(crate) async fn read(
        &self,
        file: &Arc<OwnedFd>,
        buf: IoBuf,
        parts: Vec<Part>,
        align: usize,
    ) -> (IoBuf, io::Result<()>) {
        self.run(Job::new(Arc::clone(file), Work::Read(buf), parts, align))
            .await
    }

    /// Writes the parts of the buffer's whole memory, concurrently; completes when all have.
    pub(crate) async fn write(
        &self,
        file: &Arc<OwnedFd>,
        buf: IoBuf,
        parts: Vec<Part>,
        align: usize,
    ) -> (IoBuf, io::Result<()>) {
        self.run(Job::new(Arc::clone(file), Work::Write(buf), parts, align))
            .await
    }

    /// Puts data and size on stable storage.
    pub(crate) async fn sync(&self, file: &Arc<OwnedFd>) -> io::Result<()> {
        let parts = vec![Part { at: 0, range: 0..0 }];
        self.run(Job::new(Arc::clone(file), Work::Sync, parts, 1))
            .await
            .1
    }

    fn run(&self, job: Job) -> Waiting<'_> {
        let (key, driver) = {
            let mut state = self.shared.lock();
            let stopped = state.stopped;
            (state.ring.add(job, stopped), state.driver.clone())
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Waiting {
            shared: &self.shared,
            key: Some(key),
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let driver = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("registered", &self.registered())
            .finish_non_exhaustive()
    }
}

/// The wait for one job. Dropped early, it leaves the job to the ring.
struct Waiting<'a> {
    shared: &'a Shared,
    key: Option<usize>,
}

impl Future for Waiting<'_> {
    type Output = (IoBuf, io::Result<()>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(key) = self.key else {
            return Poll::Pending;
        };
        let done = self.shared.lock().ring.poll(key, cx.waker());
        match done {
            Some(done) => {
                self.key = None;
                Poll::Ready(done)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Bound to a name, so that the buffer goes back to its pool after the lock is free.
            let _job = self.shared.lock().ring.abandon(key);
        }
    }
}

#[cfg(test)]
mod tests;
