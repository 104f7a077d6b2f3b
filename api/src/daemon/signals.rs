//! SIGTERM and SIGINT end the daemon in order.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::Daemon;

/// Runs until a signal says stop, then stops.
pub async fn run_until_stopped(daemon: Daemon) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    daemon.shutdown().await;
    Ok(())
}
