//! The daemon: everything put together, in the one order that is safe.
//!
//! configuration → data directory and its lock → catalog, brought up to date → repositories,
//! recovered → data plane → listeners (NBD over TCP and the unix socket, then HTTP) → ready.
//! Nothing listens before recovery has ended.

mod directory;
mod http;
mod listen;
mod log;
mod say;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sendense_engine::io::IoConfig;
use sendense_engine::plane::{Plane, PlaneConfig};
use sendense_engine::sys::activation::Inherited;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use log::init as init_log;
pub use say::{say, say_error, say_ready};
pub use signals::run_until_stopped;

use crate::auth;
use crate::config::Config;
use crate::service::{OpenRepository, Service};
use crate::store::Store;

/// How long connections get to end at a stop.
const GRACE: Duration = Duration::from_secs(5);
/// How often restore exports are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    service: Service,
    plane: Arc<Plane>,
    listeners: listen::Listeners,
    http: JoinHandle<std::io::Result<()>>,
    stop: watch::Sender<bool>,
    _lock: directory::Lock,
}

impl Daemon {
    /// Starts it. Everything that is promised at a start has happened when this returns.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_with(config, Vec::new()).await
    }

    /// Starts it with listening sockets that a supervisor opened. One named `http` takes the place
    /// of the HTTP address; a TCP socket takes that of the NBD address; unix sockets serve NBD
    /// beside the daemon's own.
    pub async fn start_with(
        config: Config,
        inherited: Vec<(String, Inherited)>,
    ) -> anyhow::Result<Self> {
        let lock = directory::open(&config.data_dir)?;
        let store = Store::open(&config.catalog()).await.with_context(|| {
            format!(
                "the catalog {} cannot be opened",
                config.catalog().display()
            )
        })?;
        if auth::first_token(&store, &config.admin_token()).await? {
            tracing::info!(path = %config.admin_token().display(), "made the first admin token");
        }
        let path = config.local_repository();
        let known = store.repositories().await?.into_iter();
        let known = known.filter(|r| r.name == "local").map(|r| r.id).next();
        let local = tokio::task::spawn_blocking(move || {
            OpenRepository::local("local", &path, known.as_deref())
        })
        .await??;
        let defaults = PlaneConfig::default();
        let plane = Plane::start(PlaneConfig {
            threads: config.nbd.threads.unwrap_or(defaults.threads),
            io: IoConfig::default(),
            ..defaults
        });
        let plane = Arc::new(plane.context("the data plane cannot be started")?);
        let service = Service::new(config, store, Arc::clone(&plane), vec![local]);
        service.recover().await?;
        if service.config().nbd.exports.is_some() {
            // At a start a bad file is a reason not to start: nobody would look for it later.
            service.reload_exports(&auth::Caller::daemon()).await?;
        }

        let listeners = listen::Listeners::open(&service, &plane, inherited)?;
        let (stop, stopped) = watch::channel(false);
        let http = listen::serve_http(&service, &listeners, stopped.clone())?;
        tokio::spawn(sweep(service.clone(), stopped));
        Ok(Self {
            service,
            plane,
            listeners,
            http,
            stop,
            _lock: lock,
        })
    }

    /// The rules, for those who embed the daemon.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Where HTTP listens.
    pub fn http(&self) -> SocketAddr {
        self.listeners.http
    }

    /// Where NBD listens.
    pub fn nbd(&self) -> SocketAddr {
        self.listeners.nbd
    }

    /// Stops listening, ends what runs, closes the catalog.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.service.end_all().await;
        self.plane.shutdown(GRACE).await;
        if tokio::time::timeout(GRACE, self.http).await.is_err() {
            tracing::warn!("HTTP requests were still running at the end");
        }
        self.service.store().close().await;
        self.listeners.remove_socket();
        if !self.service.release().await {
            tracing::warn!("work was still running at the end");
        }
    }
}

async fn sweep(service: Service, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => service.sweep_exports(),
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

#[cfg(test)]
mod tests;
