//! One NBD connection: the protocol's loop between a socket and the registry.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use sendense_nbd::export::Listed;
use sendense_nbd::{ExportInfo, Exports, Peer, Refused, ServeConfig, ServeError, Summary, serve};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tracing::Instrument;

use super::source::{AttachedExport, Source};
use super::{ExportRegistry, Stop};
use crate::io::Io;
use crate::storage::LocalBoxFuture;

/// What one connection sees of the registry; it opens at most one export in its life.
struct View {
    registry: Arc<ExportRegistry>,
    io: Io,
    /// Told once an export is open: the future that ends when the connection must be cut.
    opened: Mutex<Option<oneshot::Sender<LocalBoxFuture<'static, ()>>>>,
    /// Holds the slot in the registry until the connection is gone.
    guard: Mutex<Option<sendense_nbd::registry::ConnectionGuard>>,
}

impl Exports for View {
    type Export = AttachedExport;

    async fn info(&self, name: &str, peer: &Peer) -> Result<ExportInfo, Refused> {
        Ok(self.registry.peek(name, peer)?.info())
    }

    async fn open(&self, name: &str, peer: &Peer) -> Result<Rc<AttachedExport>, Refused> {
        let (source, guard): (Arc<dyn Source>, _) = self.registry.connect(name, peer)?;
        let export = source.attach(&self.io);
        let tell = self
            .opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(tell) = tell {
            // The receiver is gone only where the whole connection is.
            let _ = tell.send(Box::pin(guard.closed()));
        }
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        Ok(Rc::new(AttachedExport::new(export)))
    }

    fn list(&self, peer: &Peer) -> Option<Vec<Listed>> {
        Some(self.registry.listed(peer))
    }
}

/// How a connection ended, for the log.
enum Ended {
    Served(Result<Summary, ServeError>),
    Removed,
    Stopped,
}

/// Serves one connection to its end: the peer's, the export's removal, or the plane's stop.
pub(super) async fn run<S>(
    stream: S,
    io: Io,
    registry: Arc<ExportRegistry>,
    config: ServeConfig,
    mut stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let span = tracing::info_span!("nbd.connection", peer.address = ?config.peer.address);
    async move {
        let (tell, told) = oneshot::channel::<LocalBoxFuture<'static, ()>>();
        let view = View {
            registry,
            io: io.clone(),
            opened: Mutex::new(Some(tell)),
            guard: Mutex::new(None),
        };
        let cut = async move {
            match told.await {
                Ok(closed) => closed.await,
                Err(_) => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            served = serve(stream, io.pool(), &view, &config) => Ended::Served(served),
            () = cut => Ended::Removed,
            () = stop.asked() => Ended::Stopped,
        };
        log(&ended);
    }
    .instrument(span)
    .await;
}

fn log(ended: &Ended) {
    match ended {
        Ended::Served(Ok(summary)) => tracing::info!(
            requests = summary.counts.requests,
            errors = summary.counts.errors,
            read.bytes = summary.counts.bytes_read,
            written.bytes = summary.counts.bytes_written,
            "connection ended: {}",
            summary.end
        ),
        Ended::Served(Err(e)) => tracing::info!("connection refused: {e}"),
        Ended::Removed => tracing::info!("connection cut: its export was removed"),
        Ended::Stopped => tracing::info!("connection cut: the server stops"),
    }
}
