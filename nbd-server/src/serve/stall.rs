//! Tells a slow peer from one that stands still.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// So much must move within the time, or the rest of the message: a peer that drips a byte at a
/// time would otherwise hold a buffer for ever.
const PROGRESS: usize = 16 << 10;

/// One direction of one connection. Runs only while a message is half done.
#[derive(Debug, Default)]
pub(super) struct Stall {
    since: Cell<Option<Instant>>,
    moved: Cell<usize>,
}

impl Stall {
    /// Nothing moves now, in the middle of a message.
    pub(super) fn waiting(&self) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
    }

    /// Bytes moved.
    pub(super) fn moved(&self, bytes: usize) {
        let moved = self.moved.get().saturating_add(bytes);
        self.moved.set(moved);
        if moved >= PROGRESS {
            self.finished();
        }
    }

    /// The message is done, or it is we who wait.
    pub(super) fn finished(&self) {
        self.since.set(None);
        self.moved.set(0);
    }

    /// When it would be cut.
    pub(super) fn deadline(&self, limit: Duration) -> Option<Instant> {
        self.since.get().map(|since| since + limit)
    }
}
