//! SIGHUP loads the declared exports and the certificates again; SIGTERM and SIGINT end the daemon in order.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::Daemon;
use crate::auth::Caller;

/// Runs until a signal says stop, then stops.
pub async fn run_until_stopped(daemon: Daemon) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be handled")?;
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&daemon).await,
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: stopping");
                break;
            }
            _ = interrupt.recv() => {
                tracing::info!("SIGINT: stopping");
                break;
            }
        }
    }
    daemon.shutdown().await;
    Ok(())
}

async fn reload(daemon: &Daemon) {
    let nbd = &daemon.service().config().nbd;
    if nbd.exports.is_none() && nbd.tls_dir.is_none() {
        tracing::info!(
            "SIGHUP: neither nbd.exports nor nbd.tls_dir is set, there is nothing to load again"
        );
        return;
    }
    match daemon.service().reload_exports(&Caller::daemon()).await {
        Ok(r) => tracing::info!(
            added = ?r.added, changed = ?r.changed, removed = ?r.removed, refused = ?r.refused,
            certificates = r.certificates,
            "SIGHUP: the exports are loaded again, {} are as they were", r.unchanged
        ),
        Err(fault) => {
            tracing::error!("SIGHUP: {fault}");
            for problem in fault
                .extra
                .get("problems")
                .and_then(|p| p.as_array())
                .into_iter()
                .flatten()
            {
                tracing::error!("{}", problem.as_str().unwrap_or_default());
            }
        }
    }
}
