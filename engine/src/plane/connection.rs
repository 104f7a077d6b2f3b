//! One NBD connection on its data thread: what it may open, how it ends.

use std::any::Any;
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use sendense_nbd::registry::RefuseAll;
use sendense_nbd::{
    ExportInfo, Exports, Listed, Peer, Refused, ServeConfig, ServeError, Summary, TlsMode, serve,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tracing::Instrument;

use super::source::AttachedExport;
use super::spawn::panic_text;
use super::{Phase, Shared};
use crate::io::Io;
use crate::storage::LocalBoxFuture;

/// How a connection ended.
enum Outcome {
    Served(Result<Summary, ServeError>),
    Cut(&'static str),
    Panicked(Box<dyn Any + Send>),
}

/// Tells a connection beyond the limit why it is not served. It has the time of the handshake to
/// listen.
pub(super) async fn refuse<S>(stream: S, peer: Peer, tls: TlsMode, shared: Arc<Shared>, io: Io)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limit = shared.max_connections;
    let reason = format!("the server is full: all of its {limit} connections are in use");
    let nothing = RefuseAll::<AttachedExport>::new(Refused::Policy(reason.into()));
    let config = ServeConfig {
        limits: shared.limits.clone(),
        tls,
        peer,
    };
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        // How it took the refusal is nobody's concern: that there was one is logged.
        _ = Box::pin(serve(stream, io.pool(), &nothing, &config)) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Cutting) => {}
    }
}

/// Serves a connection until it ends, is cut, or panics.
pub(super) async fn run<S>(stream: S, peer: Peer, tls: TlsMode, shared: Arc<Shared>, io: Io)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let span = match peer.address {
        Some(address) => tracing::info_span!("nbd", peer = %address),
        None => tracing::info_span!("nbd", peer = "unix"),
    };
    async {
        let config = ServeConfig {
            limits: shared.limits.clone(),
            tls,
            peer,
        };
        let opener = Opener::new(Arc::clone(&shared), io.clone());
        let mut phase = shared.phase.subscribe();
        let serving = AssertUnwindSafe(serve(stream, io.pool(), &opener, &config)).catch_unwind();
        let outcome = tokio::select! {
            // Boxed: the future is large, and this is once for each connection.
            served = Box::pin(serving) => match served {
                Ok(served) => Outcome::Served(served),
                Err(panic) => Outcome::Panicked(panic),
            },
            () = opener.closed() => Outcome::Cut("the export was removed"),
            _ = phase.wait_for(|phase| *phase == Phase::Cutting) => {
                Outcome::Cut("the server ends")
            }
        };
        log(&outcome);
    }
    .instrument(span)
    .await;
}

fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Served(Ok(summary)) => tracing::info!(
            end = %summary.end,
            opened = summary.opened,
            requests = summary.counts.requests,
            errors = summary.counts.errors,
            read_bytes = summary.counts.bytes_read,
            written_bytes = summary.counts.bytes_written,
            "the connection ended"
        ),
        Outcome::Served(Err(error)) => tracing::info!(%error, "no export was opened"),
        Outcome::Cut(why) => tracing::info!(why, "the connection was cut"),
        Outcome::Panicked(panic) => {
            tracing::error!(
                panic = panic_text(&**panic),
                "the connection panicked and was cut"
            );
        }
    }
}

/// What this connection may open.
struct Opener {
    shared: Arc<Shared>,
    io: Io,
    opened: Notify,
    /// Ends when what was opened is removed the hard way.
    cut: RefCell<Option<LocalBoxFuture<'static, ()>>>,
}

impl Opener {
    fn new(shared: Arc<Shared>, io: Io) -> Self {
        Self {
            shared,
            io,
            opened: Notify::new(),
            cut: RefCell::new(None),
        }
    }

    /// Ends when the connection must be cut.
    async fn closed(&self) {
        loop {
            self.opened.notified().await;
            let cut = self.cut.borrow_mut().take();
            if let Some(cut) = cut {
                return cut.await;
            }
        }
    }

    fn serving(&self) -> Result<(), Refused> {
        match self.shared.phase() {
            Phase::Serving => Ok(()),
            _ => Err(Refused::Shutdown("the server is shutting down".into())),
        }
    }
}

impl Exports for Opener {
    type Export = AttachedExport;

    async fn info(&self, name: &str, peer: &Peer) -> Result<ExportInfo, Refused> {
        self.serving()?;
        Ok(self.shared.registry.peek(name, peer)?.info())
    }

    async fn open(&self, name: &str, peer: &Peer) -> Result<Rc<AttachedExport>, Refused> {
        self.serving()?;
        let (source, guard) = self.shared.registry.connect(name, peer)?;
        *self.cut.borrow_mut() = Some(Box::pin(guard.closed()));
        self.opened.notify_one();
        Ok(Rc::new(AttachedExport::guarded(
            source.attach(&self.io),
            guard,
        )))
    }

    fn list(&self, peer: &Peer) -> Option<Vec<Listed>> {
        Some(self.shared.registry.listed(peer))
    }
}
