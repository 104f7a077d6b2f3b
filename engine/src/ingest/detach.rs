//! Operations that end even when nobody waits for them any more.
//!
//! A connection may be cut while its write is in the kernel. The operation must still settle its
//! plan and keep its turn until the kernel is done, so when its future is dropped half way, the
//! rest of it moves to a task of its own on this thread. A connection therefore lives inside of a
//! `LocalSet`, as those of the data plane do.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::storage::LocalBoxFuture;

/// A future that survives being dropped, once it has begun.
pub(super) struct Detached<T: 'static> {
    task: Option<LocalBoxFuture<'static, T>>,
    begun: bool,
}

impl<T: 'static> Detached<T> {
    pub(super) fn new(task: impl Future<Output = T> + 'static) -> Self {
        Self {
            task: Some(Box::pin(task)),
            begun: false,
        }
    }
}

impl<T: 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        let Some(task) = &mut self.task else {
            return Poll::Pending;
        };
        let polled = task.as_mut().poll(cx);
        if polled.is_ready() {
            self.task = None;
        }
        polled
    }
}

impl<T: 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        // Outside of a runtime, at the end of a thread, there is nobody to carry on: the operation
        // is dropped, and poisons the export where it was half way.
        if self.begun
            && let Some(task) = self.task.take()
            && tokio::runtime::Handle::try_current().is_ok()
        {
            tokio::task::spawn_local(async {
                task.await;
            });
        }
    }
}
