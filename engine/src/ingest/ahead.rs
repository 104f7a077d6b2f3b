//! Space in front of the data: a helper thread keeps `fallocate` ahead of the bump pointer, since
//! writing into an extent that exists costs less than growing a file.
//!
//! It is a help, never a need: where it fails or cannot, everything goes on without. How far it
//! goes ahead grows with the image, so a small incremental does not take what it never fills.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::Notify;

use super::lock;
use crate::storage::File;

/// The first step.
const FIRST_STEP: u64 = 64 << 20;

#[derive(Debug)]
struct State {
    wanted: u64,
    done: u64,
    /// The helper lives.
    running: bool,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    ended: Notify,
    /// Data up to here needs nothing new.
    enough: AtomicU64,
    max_step: u64,
    /// More than the file's data can ever take.
    limit: u64,
}

/// The helper of one image.
#[derive(Debug)]
pub(super) struct Ahead {
    shared: Arc<Shared>,
}

impl Ahead {
    /// Goes at most `max_step` bytes ahead (0: never), and never beyond `limit`.
    pub(super) fn new(max_step: u64, limit: u64) -> Self {
        let enough = if max_step == 0 { u64::MAX } else { 0 };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    wanted: 0,
                    done: 0,
                    running: false,
                    stop: false,
                }),
                wake: Condvar::new(),
                ended: Notify::new(),
                enough: AtomicU64::new(enough),
                max_step,
                limit,
            }),
        }
    }

    /// Data now ends at `end`.
    pub(super) fn data_ends_at(&self, end: u64, file: &Arc<dyn File>) {
        let shared = &self.shared;
        if end <= shared.enough.load(Ordering::Relaxed) {
            return;
        }
        let mut state = lock(&shared.state);
        if state.stop {
            return;
        }
        let step = end.clamp(FIRST_STEP.min(shared.max_step), shared.max_step);
        let wanted = end.saturating_add(step).min(shared.limit);
        // The next step is asked for when half of this one is used.
        let enough = if wanted == shared.limit {
            u64::MAX
        } else {
            wanted - step / 2
        };
        shared.enough.store(enough, Ordering::Relaxed);
        state.wanted = state.wanted.max(wanted);
        if state.running {
            shared.wake.notify_one();
            return;
        }
        let (helper, file) = (Arc::clone(shared), Arc::clone(file));
        let spawned = std::thread::Builder::new()
            .name("sendense-ahead".to_owned())
            .spawn(move || helper.run(&*file));
        match spawned {
            Ok(_) => state.running = true,
            Err(_) => shared.enough.store(u64::MAX, Ordering::Relaxed),
        }
    }

    /// Stops the helper and waits until it touches the file no more.
    pub(super) async fn stop(&self) {
        loop {
            let ended = self.shared.ended.notified();
            {
                let mut state = lock(&self.shared.state);
                state.stop = true;
                if !state.running {
                    return;
                }
            }
            self.shared.wake.notify_one();
            ended.await;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn run(&self, file: &dyn File) {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                break;
            }
            let (from, to) = (state.done, state.wanted);
            if from < to {
                drop(state);
                let more = matches!(file.allocate(from, to - from), Ok(true));
                state = lock(&self.state);
                if !more {
                    self.enough.store(u64::MAX, Ordering::Relaxed);
                    break;
                }
                state.done = to;
            } else {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        state.running = false;
        state.stop = true;
        drop(state);
        self.ended.notify_waiters();
    }
}
