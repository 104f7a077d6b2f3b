//! The task that turns the ring.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::Shared;
use super::job::Job;

/// Starts the driver on the runtime.
pub(super) fn spawn(runtime: &Handle, shared: Arc<Shared>, bell: OwnedFd) -> io::Result<()> {
    let _here = runtime.enter();
    // JUSTIFICATION: tokio asks its caller to vouch for the descriptor.
    // SAFETY: `OwnedFd` owns an open descriptor, and nobody takes it out of the `AsyncFd`.
    let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }
        .map_err(|refused| refused.into_parts().1)?;
    let mut driver = Driver {
        shared,
        bell,
        wake: Vec::new(),
        ended: Vec::new(),
    };
    runtime.spawn(async move { poll_fn(|cx| driver.poll(cx)).await });
    Ok(())
}

struct Driver {
    shared: Arc<Shared>,
    bell: AsyncFd<OwnedFd>,
    wake: Vec<Waker>,
    ended: Vec<Job>,
}

impl Driver {
    /// Woken by new jobs, it runs after whatever else is ready on the thread, and so submits for
    /// all of them at once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let over = self.turn(cx.waker());
            // Outside of the lock: wakers and buffers run code of others.
            self.wake.drain(..).for_each(Waker::wake);
            self.ended.clear();
            if over {
                return Poll::Ready(());
            }
            // The eventfd is never read: readiness is told on every signal, not on its value.
            match self.bell.poll_read_ready(cx) {
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                // The runtime is shutting down.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn turn(&mut self, waker: &Waker) -> bool {
        let mut state = self.shared.lock();
        match &mut state.driver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        if state.ring.turn(&mut self.wake, &mut self.ended) {
            waker.wake_by_ref();
        }
        state.closing && state.ring.idle()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.driver = None;
    }
}
