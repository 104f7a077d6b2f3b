//! One connection, from the greeting to the goodbye, over anything that reads and writes.
//!
//! ```text
//! negotiate ─ STARTTLS ─> TLS ─> negotiate ─ GO ─> transmission
//!                                                  ┌─ receive: headers, payloads into pool buffers ─┐
//!                              one task polls all: ├─ operations in flight (FuturesUnordered)       │
//!                                                  └─ outbox: replies of a batch in one send <──────┘
//! ```
//! Reading, working and replying overlap without a spawn: futures are `!Send`, a connection stays
//! on its thread. Back-pressure is not reading; replies never wait for what only reading could
//! free. Dropping the future cuts the connection; an operation in flight may still take effect.

mod connection;
mod inbox;
mod negotiate;
mod outbox;
mod read;
mod receive;
mod stall;
mod unserved;
mod write;

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use crate::buffer::BufferPool;
use crate::export::{Export, Exports, Peer};
use crate::handshake::{Close, Handshake, TlsState};
use crate::limits::Limits;
use crate::session::{Broken, Session};
use connection::Connection;
use inbox::Inbox;
use negotiate::{Negotiated, negotiate};

/// Whether TLS is spoken. There is no opportunistic mode: it would only look like safety.
#[derive(Debug, Clone, Default)]
pub enum TlsMode {
    /// STARTTLS is refused by policy.
    #[default]
    Off,
    /// Nothing else is answered before STARTTLS.
    #[cfg(feature = "tls")]
    Required(std::sync::Arc<rustls::ServerConfig>),
}

/// What [`serve`] needs to know about a connection.
#[derive(Debug, Clone, Default)]
pub struct ServeConfig {
    /// What it may cost.
    pub limits: Limits,
    /// TLS.
    pub tls: TlsMode,
    /// Who connects. TLS and certificate names are filled in by [`serve`].
    pub peer: Peer,
}

/// How a connection ended.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The client said goodbye.
    #[error("the client disconnected")]
    Disconnected,
    /// The client hung up between two requests, or before an export was chosen.
    #[error("the client hung up")]
    HungUp,
    /// The client hung up in the middle of a message.
    #[error("the client hung up in the middle of a message")]
    Truncated,
    /// The client ended the handshake.
    #[error("the client ended the handshake")]
    Aborted,
    /// The stream cannot go on.
    #[error("{0}")]
    Broken(Broken),
    /// A half-received message made no progress.
    #[error("a half-received message made no progress")]
    ReceiveStalled,
    /// The client does not take its replies.
    #[error("the client does not take its replies")]
    SendStalled,
    /// A READ failed after its reply had begun, and simple replies cannot say so.
    #[error("a read failed in the middle of its reply")]
    ReadFailed,
    /// The transport failed.
    #[error("the connection failed: {0}")]
    Transport(io::ErrorKind),
}

/// What a connection did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How it ended.
    pub end: End,
    /// Whether an export was open.
    pub opened: bool,
    /// Counters.
    pub counts: Counts,
}

/// Counters of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests of every kind.
    pub requests: u64,
    /// Error replies.
    pub errors: u64,
    /// Bytes of READ data sent, holes not counted.
    pub bytes_read: u64,
    /// Bytes of WRITE payloads taken.
    pub bytes_written: u64,
}

/// Why no export was ever opened, where it was not the client's own wish.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The handshake took too long.
    #[error("the handshake took longer than {0:?}")]
    Timeout(std::time::Duration),
    /// The handshake broke a rule.
    #[error("{0}")]
    Handshake(Close),
    /// Bytes in plain behind STARTTLS: somebody injects, or the client is broken.
    #[error("bytes in plain followed STARTTLS")]
    PlaintextAfterStartTls,
    /// TLS failed.
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    /// The transport failed.
    #[error("the connection failed: {0}")]
    Transport(#[from] io::Error),
}

/// Serves one connection until it ends.
///
/// # Errors
/// Where no export was opened because the handshake failed. Once one is open, whatever happens is
/// told by [`Summary::end`].
pub async fn serve<S, P, X>(
    mut stream: S,
    pool: P,
    exports: &X,
    cfg: &ServeConfig,
) -> Result<Summary, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    P: BufferPool + 'static,
    X: Exports,
    X::Export: Export<Buf = P::Buf>,
{
    let limits = &cfg.limits;
    let deadline = Instant::now() + limits.handshake;
    let late = |_| ServeError::Timeout(limits.handshake);
    let tls = match cfg.tls {
        TlsMode::Off => TlsState::Off,
        #[cfg(feature = "tls")]
        TlsMode::Required(_) => TlsState::Required,
    };
    let mut inbox = Inbox::default();
    let mut handshake = Handshake::new(limits, tls);
    let first = negotiate(&mut stream, &mut inbox, &mut handshake, exports, &cfg.peer);
    match timeout_at(deadline, first).await.map_err(late)?? {
        Negotiated::Ended(end) => Ok(never_opened(end)),
        Negotiated::Transmit(agreed, export) => {
            let session = Session::new(agreed, export.info(), limits);
            Ok(Connection::new(stream, pool, export, session, limits)
                .run(inbox)
                .await)
        }
        #[cfg(not(feature = "tls"))]
        Negotiated::StartTls => Err(ServeError::Handshake(Close::Aborted)),
        #[cfg(feature = "tls")]
        Negotiated::StartTls => {
            let TlsMode::Required(config) = &cfg.tls else {
                return Err(ServeError::Handshake(Close::Aborted));
            };
            if !inbox.data().is_empty() {
                return Err(ServeError::PlaintextAfterStartTls);
            }
            let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::clone(config));
            // Boxed: the TLS state is large and a plain connection need not carry it.
            let accepted = Box::pin(timeout_at(deadline, acceptor.accept(stream))).await;
            let mut stream = accepted.map_err(late)?.map_err(ServeError::Tls)?;
            let mut peer = cfg.peer.clone();
            peer.tls = true;
            peer.certificate_names = crate::tls::names_of(stream.get_ref().1);
            handshake.tls_started();
            let again = negotiate(&mut stream, &mut inbox, &mut handshake, exports, &peer);
            match timeout_at(deadline, again).await.map_err(late)?? {
                Negotiated::Ended(end) => Ok(never_opened(end)),
                Negotiated::StartTls => Err(ServeError::Handshake(Close::Aborted)),
                Negotiated::Transmit(agreed, export) => {
                    let session = Session::new(agreed, export.info(), limits);
                    let connection = Connection::new(stream, pool, export, session, limits);
                    Ok(Box::pin(connection.run(inbox)).await)
                }
            }
        }
    }
}

fn never_opened(end: End) -> Summary {
    Summary {
        end,
        opened: false,
        counts: Counts::default(),
    }
}

#[cfg(test)]
mod tests;
