//! Drives the sans-io handshake over a stream.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::connection::gone;
use super::inbox::{AHEAD, Inbox};
use super::{End, ServeError};
use crate::export::{Export, Exports, Peer};
use crate::handshake::{Agreed, Close, Handshake, Step};

/// How a negotiation ended.
pub(super) enum Negotiated<E> {
    /// An export is open.
    Transmit(Agreed, Rc<E>),
    /// TLS begins.
    StartTls,
    /// The client left.
    Ended(End),
}

/// Runs the handshake until something else must happen.
pub(super) async fn negotiate<S, X>(
    stream: &mut S,
    inbox: &mut Inbox,
    handshake: &mut Handshake,
    exports: &X,
    peer: &Peer,
) -> Result<Negotiated<X::Export>, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    X: Exports,
{
    loop {
        let (taken, mut step) = handshake.advance(inbox.data());
        inbox.consume(taken);
        let mut open = None;
        loop {
            step = match step {
                Step::Describe(name) => {
                    let found = exports.info(&name, peer).await;
                    handshake.described(found.as_ref())
                }
                Step::Open(name) => {
                    let found = exports.open(&name, peer).await;
                    let step = handshake.opened(found.as_ref().map(|export| export.info()));
                    open = found.ok();
                    step
                }
                Step::List => {
                    let found = exports.list(peer);
                    handshake.listed(found.as_deref())
                }
                other => {
                    step = other;
                    break;
                }
            };
        }
        if !handshake.output().is_empty() {
            let sent = match stream.write_all(handshake.output()).await {
                Ok(()) => stream.flush().await,
                failed => failed,
            };
            handshake.output().clear();
            // A client may hang up right behind ABORT, and often does.
            if !matches!(step, Step::Close(Close::Aborted))
                && let Err(error) = sent
            {
                return left(error);
            }
        }
        match (step, open) {
            (Step::Transmit(agreed), Some(export)) => {
                return Ok(Negotiated::Transmit(agreed, export));
            }
            (Step::StartTls, _) => return Ok(Negotiated::StartTls),
            (Step::Close(Close::Aborted), _) => {
                // Best effort: the peer may be gone already.
                let _ = stream.shutdown().await;
                return Ok(Negotiated::Ended(End::Aborted));
            }
            (Step::Close(why), _) => {
                let _ = stream.shutdown().await;
                return Err(ServeError::Handshake(why));
            }
            (Step::More, _) => {}
            _ => continue,
        }
        match poll_fn(|cx| inbox.poll_fill(cx, stream, AHEAD)).await {
            Ok(0) => return Ok(Negotiated::Ended(End::HungUp)),
            Ok(_) => {}
            Err(error) => return left(error),
        }
    }
}

/// A peer that went away is no failure: probes of a port do that all day.
fn left<E>(error: io::Error) -> Result<Negotiated<E>, ServeError> {
    match gone(error.kind()) {
        End::HungUp => Ok(Negotiated::Ended(End::HungUp)),
        _ => Err(ServeError::Transport(error)),
    }
}
