//! Whether the export still takes changes: its phase, the changes under way, and poison.
//!
//! Invariant: once [`freeze`](Life::freeze) has returned, no change is under way and none begins
//! until [`thaw`](Life::thaw). Poison is for ever.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Mutex, OnceLock};

use sendense_nbd::NbdError;
use tokio::sync::Notify;

use super::lock;
use crate::{Error, ErrorKind, Result};

/// What the export takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Everything.
    Open,
    /// Reads; changes are refused, flushes wait for what becomes of it.
    Frozen,
    /// Reads; the image is complete.
    Sealed,
    /// Nothing.
    Aborted,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    active: usize,
}

/// The failure that ended the export.
#[derive(Debug)]
struct Poison {
    no_space: bool,
    what: String,
}

/// The life of one export.
#[derive(Debug)]
pub(super) struct Life {
    state: Mutex<State>,
    changed: Notify,
    poison: OnceLock<Poison>,
}

/// A change that is under way; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Active<'a>(&'a Life);

/// Poisons the export when it is dropped before [`done`](Unfinished::done): an operation that was
/// cut off between planning and settling leaves unknown bytes behind.
#[derive(Debug)]
pub(super) struct Unfinished<'a>(Option<&'a Life>);

impl Life {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                phase: Phase::Open,
                active: 0,
            }),
            changed: Notify::new(),
            poison: OnceLock::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        lock(&self.state).phase
    }

    /// Fails once the export is poisoned.
    pub(super) fn healthy(&self) -> Result<(), NbdError> {
        match self.poison.get() {
            None => Ok(()),
            Some(Poison { no_space: true, .. }) => Err(NbdError::NoSpace),
            Some(_) => Err(NbdError::Io),
        }
    }

    /// What poisoned the export, as an error of the engine.
    pub(super) fn poisoned(&self) -> Option<Error> {
        self.poison.get().map(|p| {
            let kind = match p.no_space {
                true => ErrorKind::NoSpace,
                false => ErrorKind::Poisoned,
            };
            Error::new(kind, p.what.clone())
        })
    }

    /// Storage failed: the first failure is kept, and everything answers it from now on.
    pub(super) fn poison(&self, what: impl fmt::Display, error: &io::Error) -> NbdError {
        let no_space = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        self.poison_with(no_space, format!("{what}: {error}"))
    }

    /// As [`poison`](Self::poison), without a system call behind it.
    pub(super) fn poison_with(&self, no_space: bool, what: String) -> NbdError {
        let _ = self.poison.set(Poison { no_space, what });
        self.changed.notify_waiters();
        match self.healthy() {
            Err(e) => e,
            Ok(()) => NbdError::Io,
        }
    }

    /// Begins a change.
    pub(super) fn begin(&self) -> Result<Active<'_>, NbdError> {
        self.healthy()?;
        let mut state = lock(&self.state);
        if state.phase != Phase::Open {
            return Err(NbdError::Shutdown);
        }
        state.active += 1;
        Ok(Active(self))
    }

    /// Whether reads are answered.
    pub(super) fn readable(&self) -> Result<(), NbdError> {
        self.healthy()?;
        match self.phase() {
            Phase::Aborted => Err(NbdError::Shutdown),
            Phase::Open | Phase::Frozen | Phase::Sealed => Ok(()),
        }
    }

    pub(super) fn unfinished(&self) -> Unfinished<'_> {
        Unfinished(Some(self))
    }

    /// Refuses further changes and waits for those under way.
    pub(super) async fn freeze(&self) -> Result<()> {
        {
            let mut state = lock(&self.state);
            match state.phase {
                Phase::Open => state.phase = Phase::Frozen,
                Phase::Frozen => {}
                Phase::Sealed => return Ok(()),
                Phase::Aborted => {
                    return Err(Error::new(
                        ErrorKind::WrongState,
                        "the backup was cancelled",
                    ));
                }
            }
        }
        self.drained().await;
        Ok(())
    }

    /// Waits until no change is under way.
    pub(super) async fn drained(&self) {
        self.until(|state| state.active == 0).await;
    }

    /// Waits while the export is frozen and healthy; tells the phase after it.
    pub(super) async fn thawed(&self) -> Phase {
        self.until(|state| state.phase != Phase::Frozen || self.poison.get().is_some())
            .await
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) -> Phase {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = lock(&self.state);
                if reached(&state) {
                    return state.phase;
                }
            }
            changed.await;
        }
    }

    /// Moves on to another phase; an aborted export stays so.
    pub(super) fn enter(&self, phase: Phase) {
        let mut state = lock(&self.state);
        if state.phase != Phase::Aborted {
            state.phase = phase;
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.active -= 1;
        let idle = state.active == 0;
        drop(state);
        if idle {
            self.0.changed.notify_waiters();
        }
    }
}

impl Unfinished<'_> {
    /// The operation has come to its end, good or bad.
    pub(super) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.poison_with(false, "a write was cut off before it ended".to_owned());
        }
    }
}
