//! One data-plane thread: a single-threaded runtime, its [`Io`], and the tasks it was given.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use crate::io::{Io, IoConfig, IoEngine};
use crate::storage::LocalBoxFuture;

/// Work for a thread: made there, so that it may hold what cannot travel.
pub(super) type Task = Box<dyn FnOnce(Io) -> LocalBoxFuture<'static, ()> + Send>;

/// A running thread. It ends when its last task has, after the worker is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    /// Not bounded by itself: connections are (by the plane), and so is whoever spawns.
    tasks: UnboundedSender<Task>,
    thread: JoinHandle<()>,
    engine: IoEngine,
}

impl Worker {
    pub(super) fn start(index: usize, config: IoConfig) -> io::Result<Self> {
        let (tasks, queue) = unbounded_channel();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("data-{index}"))
            .spawn(move || {
                let runtime = match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(e) => {
                        // Nobody listens any more only where the starter is gone.
                        let _ = ready.send(Err(e));
                        return;
                    }
                };
                LocalSet::new().block_on(&runtime, async move {
                    match Io::new(config) {
                        Ok(io) => {
                            let _ = ready.send(Ok(io.engine()));
                            run(io, queue).await;
                        }
                        Err(e) => {
                            let _ = ready.send(Err(e));
                        }
                    }
                });
            })?;
        let engine = started
            .recv()
            .map_err(|_| io::Error::other("a data-plane thread ended while it started"))??;
        Ok(Self {
            tasks,
            thread,
            engine,
        })
    }

    pub(super) fn engine(&self) -> IoEngine {
        self.engine
    }

    pub(super) fn sender(&self) -> UnboundedSender<Task> {
        self.tasks.clone()
    }

    /// Lets the thread end after its last task, and waits for that.
    pub(super) fn join(self) {
        drop(self.tasks);
        if self.thread.join().is_err() {
            tracing::error!("a data-plane thread ended by a panic");
        }
    }
}

/// Takes tasks until all senders are gone, then waits for those that still run. A task that panics
/// ends alone: the runtime catches it.
async fn run(io: Io, mut queue: UnboundedReceiver<Task>) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            task = queue.recv() => match task {
                Some(task) => {
                    running.spawn_local(task(io.clone()));
                }
                None => break,
            },
            Some(ended) = running.join_next() => report(&ended),
        }
    }
    while let Some(ended) = running.join_next().await {
        report(&ended);
    }
}

fn report(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!("a task of the data plane panicked; its connection is cut");
    }
}
