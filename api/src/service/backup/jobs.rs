//! The backups that are at work: those that are being started, and those that run.
//!
//! Invariant: from before its row can be seen until it has ended, a backup is here. So a cancel or
//! a shutdown finds it at every moment, and a place beneath the limit is taken, not just looked at.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sendense_engine::repository::BackupId;
use tokio::sync::watch;

use super::running::Running;
use crate::service::{Fault, Result, lock};
use crate::types::Code;

/// How a backup is to end, as its row will say.
pub(super) type End = (&'static str, Fault);

/// The backups that are at work.
#[derive(Debug, Default)]
pub(in crate::service) struct Jobs {
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    running: HashMap<String, Arc<Running>>,
    /// Those that have an id but do not run yet, and how they are to end where somebody asked.
    starting: HashMap<String, Option<End>>,
    /// Places that are taken by those that do not run yet.
    seats: usize,
    /// The daemon is ending: nothing more starts.
    stopped: Option<Fault>,
}

/// Where a backup was found.
#[derive(Debug)]
pub(super) enum Found {
    /// It runs.
    Running(Arc<Running>),
    /// It is being started, and was told to end.
    Starting,
    /// It is not at work.
    None,
}

impl Jobs {
    /// Takes a place for a backup that is to be started.
    pub(super) fn reserve(self: &Arc<Self>, limit: usize) -> Result<Seat> {
        let mut table = lock(&self.table);
        if let Some(fault) = &table.stopped {
            return Err(fault.clone());
        }
        if table.running.len() + table.seats >= limit {
            return Err(Fault::new(
                Code::TooMany,
                format!("{limit} backups run already, which is the limit"),
            ));
        }
        table.seats += 1;
        Ok(Seat {
            jobs: Arc::clone(self),
            id: None,
            taken: true,
        })
    }

    /// A backup that runs.
    pub(in crate::service) fn get(&self, id: &str) -> Option<Arc<Running>> {
        lock(&self.table).running.get(id).cloned()
    }

    /// All that run.
    pub(in crate::service) fn all(&self) -> Vec<Arc<Running>> {
        lock(&self.table).running.values().cloned().collect()
    }

    /// Forgets one that has ended.
    pub(super) fn remove(&self, id: &str) {
        lock(&self.table).running.remove(id);
    }

    /// Finds a backup; one that is still being started is told to end like this. Who asked first
    /// is heard.
    pub(super) fn find_or_end(&self, id: &str, end: End) -> Found {
        let mut table = lock(&self.table);
        if let Some(running) = table.running.get(id) {
            return Found::Running(Arc::clone(running));
        }
        match table.starting.get_mut(id) {
            Some(asked) => {
                asked.get_or_insert(end);
                Found::Starting
            }
            None => Found::None,
        }
    }

    /// Until a backup is no longer being started.
    pub(super) async fn started(&self, id: &str) {
        let mut changed = self.changed.subscribe();
        let done = |_: &u64| !lock(&self.table).starting.contains_key(id);
        // The sender is ours and does not go.
        let _ = changed.wait_for(done).await;
    }

    /// Lets nothing start any more, tells those that are being started to end, and waits for them.
    pub(super) async fn stop(&self, fault: &Fault) {
        {
            let mut table = lock(&self.table);
            table.stopped.get_or_insert_with(|| fault.clone());
            for asked in table.starting.values_mut() {
                asked.get_or_insert(("failed", fault.clone()));
            }
        }
        let mut changed = self.changed.subscribe();
        let done = |_: &u64| lock(&self.table).starting.is_empty();
        let _ = changed.wait_for(done).await;
    }

    fn notify(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// A place beneath the limit, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    jobs: Arc<Jobs>,
    id: Option<String>,
    taken: bool,
}

impl Seat {
    /// Gives the backup its id, before its row can be seen.
    pub(super) fn name(&mut self, id: &BackupId) -> Result<()> {
        let mut table = lock(&self.jobs.table);
        if let Some(fault) = &table.stopped {
            return Err(fault.clone());
        }
        table.starting.insert(id.as_str().to_owned(), None);
        self.id = Some(id.as_str().to_owned());
        Ok(())
    }

    /// It runs from now on. Says how it is to end, where somebody asked for that meanwhile.
    pub(super) fn run(mut self, running: Arc<Running>) -> Option<End> {
        let mut table = lock(&self.jobs.table);
        let end = self.id.take().and_then(|id| table.starting.remove(&id));
        table
            .running
            .insert(running.id.as_str().to_owned(), running);
        table.seats = table.seats.saturating_sub(1);
        drop(table);
        self.taken = false;
        self.jobs.notify();
        end.flatten()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.taken {
            let mut table = lock(&self.jobs.table);
            table.seats = table.seats.saturating_sub(1);
            if let Some(id) = self.id.take() {
                table.starting.remove(&id);
            }
            drop(table);
            self.jobs.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> BackupId {
        BackupId::parse(format!("backup-web-2025100412{n:04}")).unwrap()
    }

    fn end() -> End {
        ("cancelled", Fault::new(Code::Cancelled, "somebody asked"))
    }

    #[test]
    fn the_limit_holds_however_many_ask_at_once() {
        let jobs = Arc::new(Jobs::default());
        let ask = || {
            let jobs = Arc::clone(&jobs);
            std::thread::spawn(move || jobs.reserve(3))
        };
        let asked: Vec<_> = (0..16).map(|_| ask()).collect();
        let answers: Vec<_> = asked.into_iter().map(|t| t.join().unwrap()).collect();
        let refused = answers.iter().filter_map(|a| a.as_ref().err());
        let refused: Vec<_> = refused.map(|f| f.code).collect();
        assert_eq!(refused, [Code::TooMany; 13]);
        // A start that came to nothing gives its place back.
        drop(answers);
        assert!(jobs.reserve(1).is_ok());
    }

    #[tokio::test]
    async fn what_is_being_started_can_be_ended() {
        let jobs = Arc::new(Jobs::default());
        let mut seat = jobs.reserve(2).unwrap();
        assert!(matches!(
            jobs.find_or_end(id(1).as_str(), end()),
            Found::None
        ));
        seat.name(&id(1)).unwrap();
        assert!(matches!(
            jobs.find_or_end(id(1).as_str(), end()),
            Found::Starting
        ));
        // A start that fails by itself is waited for, too.
        let (waiting, of) = (Arc::clone(&jobs), id(1));
        let waiting = tokio::spawn(async move { waiting.started(of.as_str()).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(seat);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_is_being_started_and_lets_nothing_new_begin() {
        let jobs = Arc::new(Jobs::default());
        let mut named = jobs.reserve(4).unwrap();
        named.name(&id(1)).unwrap();
        let mut unnamed = jobs.reserve(4).unwrap();
        let stopping = Arc::clone(&jobs);
        let stopping = tokio::spawn(async move {
            let fault = Fault::new(Code::Interrupted, "the daemon was stopped");
            stopping.stop(&fault).await;
        });
        tokio::task::yield_now().await;
        assert!(!stopping.is_finished());
        assert_eq!(unnamed.name(&id(2)).unwrap_err().code, Code::Interrupted);
        assert_eq!(jobs.reserve(4).unwrap_err().code, Code::Interrupted);
        drop(named);
        stopping.await.unwrap();
    }
}
