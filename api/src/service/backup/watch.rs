//! Watches a running backup: first bytes, storage failures, space, and movers that never come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sendense_engine::repository::SpaceVerdict;

use super::running::{Part, Running, Stage};
use crate::service::{Fault, Service, blocking};
use crate::types::{Code, Time};

const TICK: Duration = Duration::from_secs(1);
/// Space is asked for this often.
const SPACE_TICKS: u32 = 5;

impl Service {
    /// Until the job has ended.
    pub(super) async fn watch(self, running: Arc<Running>) {
        let idle_limit = match self.config().limits.idle_seconds {
            0 => None,
            n => Some(Duration::from_secs(n)),
        };
        let mut last = (0, Instant::now());
        let mut warned = false;
        let mut changed = running.watch();
        for tick in 0_u32.. {
            // An end is noticed at once: whoever watches keeps the parent's images open.
            let ended = changed.wait_for(|_| running.has_ended());
            if tokio::time::timeout(TICK, ended).await.is_ok() {
                return;
            }
            let (moved, own, failure) = {
                let mut state = running.state();
                match state.stage {
                    Stage::Open => {}
                    _ => continue,
                }
                let mut moved: u64 = 0;
                let (mut own, mut failure) = (false, None);
                for disk in &mut state.disks {
                    let p = disk.ingest.progress();
                    moved = moved
                        .saturating_add(p.transferred)
                        .saturating_add(p.covered);
                    if disk.first_at.is_none() && p.transferred.max(p.covered) > 0 {
                        disk.first_at = Some(Time::now());
                    }
                    own |= match disk.part {
                        Part::Open => disk.export.is_none(),
                        Part::Preparing(_) => true,
                        Part::Prepared(..) => false,
                    };
                    failure = failure.or_else(|| disk.ingest.failure());
                }
                (moved, own, failure)
            };
            if let Some(e) = failure {
                self.fail(&running, e.into()).await;
                return;
            }
            // The daemon's own work on a disk is no idleness, though comparing and sealing move
            // nothing.
            if moved != last.0 || own || self.has_clients(&running) {
                last = (moved, Instant::now());
            }
            if idle_limit.is_some_and(|limit| last.1.elapsed() > limit) {
                let fault = Fault::new(
                    Code::Idle,
                    format!(
                        "no mover was connected for {} s",
                        last.1.elapsed().as_secs()
                    ),
                );
                self.fail(&running, fault).await;
                return;
            }
            if tick % SPACE_TICKS == 0 {
                match self.space_left(&running).await {
                    Ok(SpaceVerdict::Exhausted) => {
                        let fault = Fault::new(
                            Code::NoSpace,
                            "the repository is down to its reserve: the backup was ended before \
                             it could harm others",
                        );
                        self.fail(&running, fault).await;
                        return;
                    }
                    Ok(SpaceVerdict::Low) if !warned => {
                        warned = true;
                        tracing::warn!(backup = %running.id, "space in the repository is low");
                    }
                    Ok(_) => {}
                    Err(e) => tracing::warn!(backup = %running.id, "space is not known: {e}"),
                }
            }
        }
    }

    fn has_clients(&self, running: &Running) -> bool {
        let names: Vec<String> = {
            let state = running.state();
            let exports = state.disks.iter().filter_map(|d| d.export.as_ref());
            exports.map(|e| e.reveal()).collect()
        };
        let items = self.plane().registry().list();
        items
            .iter()
            .any(|item| item.connections > 0 && names.contains(&item.name))
    }

    async fn space_left(&self, running: &Running) -> Result<SpaceVerdict, Fault> {
        let repository = running.repository.clone();
        blocking(move || Ok(repository.space()?.verdict)).await
    }
}
