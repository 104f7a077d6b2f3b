//! One data thread: a single-threaded runtime, its [`Io`], and an inbox of things to run there.

use std::fmt;
use std::io;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::io::{Io, IoConfig, IoEngine};
use crate::storage::LocalBoxFuture;

/// Something to run on the thread.
type Task = Box<dyn FnOnce(Io) -> LocalBoxFuture<'static, ()> + Send>;

/// The way into a thread. What is sent to a thread that has ended is dropped.
#[derive(Clone)]
pub(super) struct Sender(mpsc::UnboundedSender<Task>);

impl Sender {
    /// Starts a task on the thread. Their number is bounded by whoever sends: connections by
    /// their limit, work by the daemon's jobs.
    pub(super) fn run(
        &self,
        task: impl FnOnce(Io) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) {
        // A refusal drops the task, and with it whatever waits for its result.
        let _ = self.0.send(Box::new(task));
    }
}

/// What a thread tells when it has started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) engine: IoEngine,
    pub(super) buffers_registered: bool,
}

/// A running thread. Dropping it drops what runs there and waits for its end.
pub(super) struct Thread {
    sender: Sender,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ready: blocking::Receiver<io::Result<Ready>>,
    handle: Option<JoinHandle<()>>,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl Thread {
    pub(super) fn start(number: usize, config: IoConfig) -> io::Result<Self> {
        let (sender, mut tasks) = mpsc::unbounded_channel::<Task>();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, ready) = blocking::sync_channel(1);
        let handle = std::thread::Builder::new()
            .name(format!("sendense-data-{number}"))
            .spawn(move || {
                let (runtime, io) = match set_up(config) {
                    Ok(both) => both,
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                let _ = tell.send(Ok(Ready {
                    engine: io.engine(),
                    buffers_registered: io.buffers_registered(),
                }));
                let local = LocalSet::new();
                let serve = async {
                    while let Some(task) = tasks.recv().await {
                        let io = io.clone();
                        // Made inside of its own task, so that a panic stays there.
                        tokio::task::spawn_local(async move { task(io).await });
                    }
                };
                local.block_on(&runtime, async {
                    tokio::select! {
                        () = serve => {}
                        _ = stopped => {}
                    }
                });
                // First the tasks, which use the ring, then the ring, which waits for the kernel.
                drop(local);
                drop(tasks);
                drop(io);
                drop(runtime);
            })?;
        Ok(Self {
            sender: Sender(sender),
            stop: Some(stop),
            ready,
            handle: Some(handle),
        })
    }

    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Waits until the thread has started; once.
    pub(super) fn ready(&self) -> io::Result<Ready> {
        self.ready.recv().map_err(io::Error::other)?
    }
}

fn set_up(config: IoConfig) -> io::Result<(Runtime, Io)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let io = {
        let _here = runtime.enter();
        Io::new(config)?
    };
    Ok((runtime, io))
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let Some(handle) = self.handle.take() else {
            return;
        };
        // The last owner of the plane may be a task on this very thread.
        if handle.thread().id() != std::thread::current().id() && handle.join().is_err() {
            tracing::error!("a data thread panicked");
        }
    }
}
