//! The rules, without HTTP and without SQL.
//!
//! What changes something runs to its end once it has begun, whoever asked may be gone by then.
//! The repositories are the truth about restore points; the catalog follows in the same breath.

mod backup;
mod catalog;
mod chains;
mod declared;
mod delete;
mod exports;
mod fault;
mod health;
mod jobs;
mod names;
mod points;
mod quarantine;
mod recovery;
mod repositories;
mod restore;
mod vms;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use sendense_engine::declared::{DeclaredExports, Rule};
use sendense_engine::plane::Plane;
use sendense_nbd::uri::NbdUri;

pub use declared::Certificates;
pub use fault::{Fault, Result};
pub use points::{ListQuery, PointQuery};
pub use repositories::OpenRepository;
pub use vms::VmRef;

use crate::config::Config;
use crate::store::Store;
use crate::types::Time;
use backup::{Jobs, Lists, Running};
use chains::Chains;
use exports::RestoreExports;
use jobs::Tasks;

/// Everything that a rule needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    plane: Arc<Plane>,
    repositories: Vec<OpenRepository>,
    endpoints: OnceLock<Endpoints>,
    jobs: Arc<Jobs>,
    lists: Lists,
    chains: Chains,
    exports: RestoreExports,
    declared: DeclaredExports,
    certificates: OnceLock<Certificates>,
    reloading: Mutex<()>,
    tasks: Tasks,
    started_at: Time,
}

/// Where movers reach the data plane.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// The unix socket.
    pub socket: PathBuf,
    /// The host that the TCP listener is known by, and its port.
    pub tcp: (String, u16),
    /// Whether TLS is required on the TCP listener.
    pub tls: bool,
}

impl Endpoints {
    /// The URIs of an export, the unix socket first.
    fn uris(&self, export: &str) -> Vec<String> {
        let unix = NbdUri::unix(&self.socket, export);
        let mut tcp = NbdUri::tcp(&self.tcp.0, self.tcp.1, export);
        if self.tls {
            tcp = tcp.with_tls(None);
        }
        vec![unix.to_string(), tcp.to_string()]
    }
}

impl Service {
    /// The rules over an open catalog, open repositories and a running data plane.
    pub fn new(
        config: Config,
        store: Store,
        plane: Arc<Plane>,
        repositories: Vec<OpenRepository>,
    ) -> Self {
        let mut declared = DeclaredExports::new(Arc::clone(plane.registry()));
        if config.nbd.tls_verify_peer {
            let rules = config.nbd.rules.iter().map(|rule| Rule {
                subject: rule.subject.clone(),
                exports: rule.exports.clone(),
            });
            declared = declared.with_rules(rules.collect());
        }
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                plane,
                declared,
                certificates: OnceLock::new(),
                reloading: Mutex::default(),
                repositories,
                endpoints: OnceLock::new(),
                jobs: Arc::default(),
                lists: Lists::default(),
                chains: Chains::default(),
                exports: RestoreExports::default(),
                tasks: Tasks::default(),
                started_at: Time::now(),
            }),
        }
    }

    /// The catalog.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The data plane.
    pub fn plane(&self) -> &Arc<Plane> {
        &self.inner.plane
    }

    /// When the daemon started.
    pub fn started_at(&self) -> Time {
        self.inner.started_at
    }

    /// Says where movers reach the data plane; once, before the first request.
    pub fn set_endpoints(&self, endpoints: Endpoints) {
        // A second word would change URIs that were given out.
        let _ = self.inner.endpoints.set(endpoints);
    }

    /// Lets go, and waits a moment for all others who still hold on to it: afterwards the
    /// repositories are free for another process. Says whether they are.
    pub async fn release(self) -> bool {
        let inner = Arc::downgrade(&self.inner);
        drop(self);
        for _ in 0..500 {
            if inner.strong_count() == 0 {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        false
    }

    fn uris(&self, export: &str) -> Vec<String> {
        let endpoints = self.inner.endpoints.get();
        endpoints.map(|e| e.uris(export)).unwrap_or_default()
    }

    fn jobs(&self) -> &Arc<Jobs> {
        &self.inner.jobs
    }

    pub(crate) fn running_job(&self, id: &str) -> Option<Arc<Running>> {
        self.jobs().get(id)
    }
}

/// A panic elsewhere is no reason to panic here: what the mutexes guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs to its end even where whoever asked has gone.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(Fault::internal(format!("the work ended badly: {e}"))),
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Fault::internal(format!("the work ended badly: {e}"))),
    }
}
