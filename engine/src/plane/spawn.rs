//! Work that others start on a data thread, and the wait for its result.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Counted;
use crate::io::Io;

/// Why work has no result.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// It panicked: a fault of ours.
    #[error("the work failed within the program: {0}")]
    Panicked(String),
    /// The plane was shut down before it ended, or before it began.
    #[error("the data plane is shut down")]
    Ended,
}

/// The wait for spawned work. `Send`; dropping it does not stop the work.
#[derive(Debug)]
pub struct Spawned<T> {
    result: oneshot::Receiver<Result<T, SpawnError>>,
}

impl<T> Future for Spawned<T> {
    type Output = Result<T, SpawnError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result)
            .poll(cx)
            .map(|result| result.unwrap_or(Err(SpawnError::Ended)))
    }
}

pub(super) fn pair<T>() -> (Spawned<T>, oneshot::Sender<Result<T, SpawnError>>) {
    let (sender, result) = oneshot::channel();
    (Spawned { result }, sender)
}

pub(super) async fn run<F, Fut, T>(
    work: F,
    io: Io,
    result: oneshot::Sender<Result<T, SpawnError>>,
    counted: Counted,
) where
    F: FnOnce(Io) -> Fut,
    Fut: Future<Output = T>,
{
    // What it leaves half done after a panic is only seen by who gets the error.
    let outcome = AssertUnwindSafe(async { work(io).await })
        .catch_unwind()
        .await;
    drop(counted);
    // Nobody may be waiting any more.
    let _ = result.send(outcome.map_err(|panic| {
        let text = panic_text(&*panic);
        tracing::error!(panic = text, "work on a data thread panicked");
        SpawnError::Panicked(text.to_owned())
    }));
}

/// What a panic says.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
