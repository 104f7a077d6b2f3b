//! A backup that runs: its disks, how far each is, and whoever waits for it.

use std::sync::{Arc, Mutex, MutexGuard};

use sendense_engine::ingest::{Ingest, Prepared};
use sendense_engine::repository::{
    BackupId, ChangeToken, DiskNumber, ExportName, Growing, Repository, VmId,
};
use tokio::sync::watch;

use crate::service::{Fault, lock};
use crate::types::{Phase, Time};

/// Where a job is.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Its disks are being written.
    Open,
    /// All disks are prepared: the point is being made. There is no way back.
    Committing,
    /// The point exists; the catalog does not know it yet.
    Recording,
    /// Nobody knows whether the point exists.
    InDoubt(Fault),
    /// It is being given up.
    Ending,
    /// It has ended, with a point or with a reason.
    Ended(Option<Fault>),
}

/// How far the end of one disk is.
#[derive(Debug)]
pub(crate) enum Part {
    /// It takes writes.
    Open,
    /// It was completed and is being prepared.
    Preparing(ChangeToken),
    /// Its image is whole.
    Prepared(ChangeToken, Box<Prepared>),
}

impl Part {
    /// The token that it was completed with.
    pub(crate) fn token(&self) -> Option<&ChangeToken> {
        match self {
            Self::Open => None,
            Self::Preparing(t) | Self::Prepared(t, _) => Some(t),
        }
    }
}

/// One disk.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) number: DiskNumber,
    pub(crate) ingest: Arc<Ingest>,
    /// What movers write to; a pulled disk has none.
    pub(crate) export: Option<ExportName>,
    /// Given away at the commit.
    pub(crate) growing: Option<Growing>,
    /// Bytes that are expected: the disk's, or its declared changes'.
    pub(crate) total: u64,
    /// What the start said that it becomes.
    pub(crate) given_token: Option<ChangeToken>,
    pub(crate) part: Part,
    /// Why it was last not accepted, with the number of the attempt.
    pub(crate) refused: Option<(u64, Fault)>,
    pub(crate) attempts: u64,
    /// The first byte.
    pub(crate) first_at: Option<Time>,
}

/// A backup that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: BackupId,
    pub(crate) vm: VmId,
    pub(crate) repository: Repository,
    /// The daemon reads the sources of all its disks itself.
    pub(crate) pulled: bool,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) stage: Stage,
    pub(crate) disks: Vec<Disk>,
}

impl Running {
    pub(crate) fn new(
        id: BackupId,
        vm: VmId,
        repository: Repository,
        pulled: bool,
        disks: Vec<Disk>,
    ) -> Self {
        Self {
            id,
            vm,
            repository,
            pulled,
            state: Mutex::new(State {
                stage: Stage::Open,
                disks,
            }),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells everybody who waits that something is different.
    pub(crate) fn notify(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// What ends at the next change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Moves to a stage and tells. At the end the disks are let go of, and what they hold open.
    pub(crate) fn enter(&self, stage: Stage) {
        let mut state = self.state();
        let gone = match &stage {
            Stage::Ended(_) => std::mem::take(&mut state.disks),
            _ => Vec::new(),
        };
        state.stage = stage;
        drop(state);
        drop(gone);
        self.notify();
    }

    /// Whether nothing more will happen.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state().stage, Stage::Ended(_))
    }

    /// Until nothing more will happen.
    pub(crate) async fn ended(&self) {
        let mut changed = self.watch();
        // The sender is ours and does not go.
        let _ = changed.wait_for(|_| self.has_ended()).await;
    }

    /// Begins the end of a job that has not begun to commit; its disks still hold their files.
    pub(crate) fn begin_end(&self) -> Result<Vec<Leaving>, Fault> {
        let mut state = self.state();
        match &state.stage {
            Stage::Open => {}
            Stage::Ended(_) => return Err(wrong_state("it has ended")),
            Stage::Ending => return Err(wrong_state("it is being ended already")),
            _ => return Err(wrong_state("it is being sealed: too late to end it")),
        }
        state.stage = Stage::Ending;
        let leaving = state.disks.iter_mut().map(|d| Leaving {
            ingest: Arc::clone(&d.ingest),
            export: d.export.as_ref().map(ExportName::reveal),
            growing: d.growing.take(),
        });
        let leaving = leaving.collect();
        drop(state);
        self.notify();
        Ok(leaving)
    }

    /// Where a person would say that it is.
    pub(crate) fn phase(&self) -> Phase {
        let state = self.state();
        let all_done = state.disks.iter().all(|d| d.part.token().is_some());
        match state.stage {
            Stage::Open if all_done => Phase::Sealing,
            Stage::Open if self.pulled => Phase::Pulling,
            Stage::Open => {
                let begun = |d: &Disk| {
                    let p = d.ingest.progress();
                    p.covered > 0 || p.transferred > 0
                };
                if state.disks.iter().any(begun) {
                    Phase::Receiving
                } else {
                    Phase::Waiting
                }
            }
            _ => Phase::Sealing,
        }
    }
}

/// A disk on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) export: Option<String>,
    pub(crate) growing: Option<Growing>,
}

pub(crate) fn wrong_state(why: &str) -> Fault {
    Fault::new(crate::types::Code::WrongState, why)
}
