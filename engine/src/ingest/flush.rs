//! FLUSH: rounds that all waiting flushes share.
//!
//! A round writes out what is held, then syncs. It covers every change that was replied before it
//! began, on any connection; so a flush waits for a round that begins after the flush came.

use std::pin::pin;
use std::sync::Mutex;

use futures_util::StreamExt;
use futures_util::stream;
use sendense_nbd::NbdError;
use tokio::sync::Notify;

use super::core::Core;
use super::life::Phase;
use super::lock;
use crate::io::Io;

/// Held clusters that are written out at the same time.
const PARALLEL: usize = 8;

#[derive(Debug, Default)]
struct State {
    started: u64,
    finished: u64,
    running: bool,
}

/// The rounds of one export.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<State>,
    changed: Notify,
}

/// Who runs a round. Dropped half way, another one takes over.
struct Leader<'a> {
    rounds: &'a Rounds,
    finished: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.rounds.state);
        state.running = false;
        if self.finished {
            state.finished = state.started;
        }
        drop(state);
        self.rounds.changed.notify_waiters();
    }
}

impl Core {
    pub(super) async fn flush(&self, io: &Io) -> Result<(), NbdError> {
        let _active = loop {
            match self.life.begin() {
                Ok(active) => break active,
                Err(NbdError::Shutdown) => match self.life.phase() {
                    // The seal is a flush of everything; after a refused seal, flush ourselves.
                    Phase::Frozen => {
                        self.life.thawed().await;
                        self.life.healthy()?;
                    }
                    Phase::Sealed => return Ok(()),
                    Phase::Open => {}
                    Phase::Aborted => return Err(NbdError::Shutdown),
                },
                Err(e) => return Err(e),
            }
        };
        let wanted = lock(&self.rounds.state).started + 1;
        loop {
            let mut changed = pin!(self.rounds.changed.notified());
            changed.as_mut().enable();
            let lead = {
                let mut state = lock(&self.rounds.state);
                if state.finished >= wanted {
                    return self.life.healthy();
                }
                let lead = !state.running;
                if lead {
                    state.running = true;
                    state.started += 1;
                }
                lead
            };
            if !lead {
                changed.await;
                continue;
            }
            let mut leader = Leader {
                rounds: &self.rounds,
                finished: false,
            };
            self.round(io).await?;
            leader.finished = true;
        }
    }

    async fn round(&self, io: &Io) -> Result<(), NbdError> {
        self.life.healthy()?;
        self.write_out(io).await?;
        let synced = self.file.sync(io).await;
        synced.map_err(|e| self.life.poison(self.doing("syncing"), &e))
    }

    /// Writes out everything that is held now.
    pub(super) async fn write_out(&self, io: &Io) -> Result<(), NbdError> {
        let held = self.held.among(0..u64::MAX);
        let mut written = stream::iter(held)
            .map(|cluster| self.evict(io, cluster))
            .buffer_unordered(PARALLEL);
        let mut result = Ok(());
        while let Some(one) = written.next().await {
            result = result.and(one);
        }
        result
    }
}
