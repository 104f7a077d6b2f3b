//! Sources that the daemon reads itself.

use std::sync::Arc;

use sendense_engine::chain::Chain;
use sendense_engine::plane::Source;
use sendense_engine::pull::{OpenSource, PullMode, PullSource, pull};
use sendense_engine::repository::{BackupKind, DiskNumber, Growing};
use sendense_engine::storage::Create;
use sendense_engine::transfer::Progress;
use sendense_nbd::client::ConnectOptions;

use super::plan::PlanDisk;
use super::running::Running;
use super::source::{Place, check_remote, paths, refusal};
use crate::service::{Fault, Result, Service, blocking};
use crate::types::{Code, CompleteDisk};

/// The list that sources lie beneath.
const KEY: &str = "sources.allow";
/// Connections to a remote source.
const CONNECTIONS: usize = 4;

/// What is to be read, and how.
#[derive(Debug)]
pub(crate) struct Pull {
    number: DiskNumber,
    place: Place,
    mode: PullMode,
}

impl Pull {
    /// A full reads everything; a list is read as declared; otherwise the parent's content decides.
    pub(super) fn new(
        disk: &PlanDisk,
        growing: &Growing,
        parent: Option<Arc<Chain>>,
    ) -> Result<Self> {
        let mode = match (growing.decision().kind, &disk.changes, parent) {
            (BackupKind::Full, _, _) => PullMode::Full,
            (_, Some(changes), _) => PullMode::Changes(changes.clone()),
            (_, None, Some(parent)) => PullMode::CompareWith(parent),
            (kind, None, None) => {
                return Err(Fault::internal(format!("an {kind} without a parent")));
            }
        };
        Ok(Self {
            number: disk.number,
            place: disk.place.clone(),
            mode,
        })
    }
}

impl Service {
    /// The size of a source, which must be there and allowed; and the container format that it is
    /// by its magic, if any.
    pub(super) async fn look_at(&self, place: &Place) -> Result<(u64, Option<&'static str>)> {
        let source = self.pull_source(place).await?;
        let looked = self.on_plane(move |io| async move {
            let source = OpenSource::open(source).await?;
            Ok((source.size(), source.container(&io).await?))
        });
        looked.await
    }

    async fn pull_source(&self, place: &Place) -> Result<PullSource> {
        let allow = self.config().sources.clone();
        match place {
            Place::Push => Err(Fault::internal("a pushed disk has no source here")),
            Place::File(path) => {
                let path = path.clone();
                blocking(move || {
                    let file = paths(&allow, KEY)?
                        .open(&path, Create::OpenRead)
                        .map_err(|e| refusal(KEY, &path, e))?;
                    let name = path.display().to_string();
                    Ok(PullSource::File { file, name })
                })
                .await
            }
            Place::Nbd(uri) => {
                check_remote(&allow, KEY, uri)?;
                Ok(PullSource::Nbd {
                    uri: uri.clone(),
                    connections: CONNECTIONS,
                    options: ConnectOptions::default(),
                })
            }
        }
    }

    /// Reads one source into its ingest, then completes the disk; a failure ends the job.
    pub(super) async fn pull(self, running: Arc<Running>, work: Pull) {
        let number = work.number;
        if let Err(fault) = self.pull_disk(&running, work).await {
            let fault = fault.about(format!("reading the source of disk {number}"));
            self.fail(&running, fault).await;
            return;
        }
        let done = CompleteDisk {
            disk_id: number.get(),
            change_id: None,
        };
        if let Err(fault) = self.complete_disk(&running, &done) {
            self.fail(&running, fault).await;
        }
    }

    async fn pull_disk(&self, running: &Arc<Running>, work: Pull) -> Result<()> {
        let ingest = {
            let state = running.state();
            let disk = state.disks.iter().find(|d| d.number == work.number);
            disk.map(|d| Arc::clone(&d.ingest))
        };
        let Some(ingest) = ingest else {
            return Err(Fault::internal("the disk has gone"));
        };
        let source = self.pull_source(&work.place).await?;
        let mode = work.mode;
        self.on_plane(move |io| async move {
            let source = OpenSource::open(source).await?;
            let target: &dyn Source = &*ingest;
            // A cancelled job aborts the ingest, whose refusal ends this.
            pull(&io, &source, target, &mode, &Progress::new()).await?;
            Ok(())
        })
        .await
    }

    /// Runs work on a data-plane thread.
    pub(in crate::service) async fn on_plane<F, W, T>(&self, work: F) -> Result<T>
    where
        F: FnOnce(sendense_engine::io::Io) -> W + Send + 'static,
        W: Future<Output = Result<T>> + 'static,
        T: Send + 'static,
    {
        match self.plane().spawn(work).await {
            Ok(result) => result,
            Err(e) => Err(Fault::new(Code::Unavailable, e.to_string())),
        }
    }
}
