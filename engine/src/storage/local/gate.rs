//! Who may write where in one file with direct I/O, while unaligned writes are about.
//!
//! An unaligned write reads a unit, changes a part of it and writes it back; a write to the same
//! unit in between would be undone. So it enters alone ([`Gate::alone`]), others together
//! ([`Gate::together`]). First come, first served, per range: nobody starves.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The gate of one file.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
    changed_blocking: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those inside and those that wait, in the order of their coming.
    visits: Vec<Visit>,
    /// How many of them are alone.
    alone: usize,
    next: u64,
}

#[derive(Debug)]
struct Visit {
    id: u64,
    range: Range<u64>,
    alone: bool,
}

/// A place in the gate; dropping it leaves.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    id: u64,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters with others, once nobody before us is alone in this range.
    pub(super) async fn together(&self, range: Range<u64>) -> Pass<'_> {
        let pass = self.come(range, false);
        loop {
            let changed = self.changed.notified();
            if self.lock().is_free(pass.id) {
                return pass;
            }
            changed.await;
        }
    }

    /// The same for a thread that may block.
    pub(super) fn together_blocking(&self, range: Range<u64>) -> Pass<'_> {
        self.wait(self.come(range, false))
    }

    /// Enters alone, once nobody before us is in this range.
    pub(super) fn alone(&self, range: Range<u64>) -> Pass<'_> {
        self.wait(self.come(range, true))
    }

    fn come(&self, range: Range<u64>, alone: bool) -> Pass<'_> {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.alone += usize::from(alone);
        state.visits.push(Visit { id, range, alone });
        Pass { gate: self, id }
    }

    fn wait<'a>(&'a self, pass: Pass<'a>) -> Pass<'a> {
        let mut state = self.lock();
        while !state.is_free(pass.id) {
            state = self
                .changed_blocking
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        pass
    }
}

impl State {
    fn is_free(&self, id: u64) -> bool {
        if self.alone == 0 {
            return true;
        }
        let Some(own) = self.visits.iter().position(|visit| visit.id == id) else {
            return true;
        };
        let (before, from) = self.visits.split_at(own);
        let Some(me) = from.first() else { return true };
        !before.iter().any(|other| {
            (other.alone || me.alone)
                && other.range.start < me.range.end
                && me.range.start < other.range.end
        })
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        let somebody_waits = state.alone > 0;
        if let Some(own) = state.visits.iter().position(|visit| visit.id == self.id) {
            let left = state.visits.remove(own);
            state.alone -= usize::from(left.alone);
        }
        drop(state);
        if somebody_waits {
            self.gate.changed.notify_waiters();
            self.gate.changed_blocking.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn those_together_do_not_wait_and_one_alone_keeps_later_ones_out() {
        let gate = Arc::new(Gate::default());
        let a = gate.together(0..100).await;
        let b = gate.together(50..150).await;
        let inner = Arc::clone(&gate);
        let alone = std::thread::spawn(move || {
            let _pass = inner.alone(96..104);
            std::thread::sleep(Duration::from_millis(20));
        });
        while gate.lock().alone == 0 {
            std::thread::yield_now();
        }
        let elsewhere = gate.together(200..300).await;
        let mut late = pin!(gate.together(100..101));
        assert!(
            poll!(late.as_mut()).is_pending(),
            "nobody overtakes who waits alone"
        );
        drop((a, elsewhere));
        assert!(poll!(late.as_mut()).is_pending());
        drop(b);
        drop(late.await);
        alone.join().unwrap();
        assert!(gate.lock().visits.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_wait_leaves_the_gate() {
        let gate = Gate::default();
        let alone = gate.alone(0..10);
        {
            let mut waiting = pin!(gate.together(0..10));
            assert!(poll!(waiting.as_mut()).is_pending());
        }
        assert_eq!(gate.lock().visits.len(), 1);
        drop(alone);
        drop(gate.alone(0..10));
    }
}
