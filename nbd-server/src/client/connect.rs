//! Connecting: the socket, the handshake with TLS in its middle, and the task that takes over.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::driver::{self, Shared};
use super::error::ClientError;
use super::handshake::{Action, Handshake, Outcome, Purpose, Wanted};
use super::info::{ConnectOptions, RemoteInfo};
use super::session::Session;
use super::{Client, Inner, Result};
use crate::export::Listed;
use crate::uri::{NbdAddress, NbdUri};

/// Measured: with the kernel's 208 KiB, a push of 1 MiB WRITEs costs a fifth more CPU on either
/// side, since sender and receiver wake each other that much more often.
const UNIX_SEND_BUFFER: usize = 1 << 20;

/// A connection in any form.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type BoxedStream = Box<dyn Stream>;

impl Client {
    /// Connects to an export. The `nbds` schemes never go on without TLS.
    pub async fn connect(uri: &NbdUri, options: &ConnectOptions) -> Result<Self> {
        let (stream, outcome) = open(uri, Purpose::Use, options).await?;
        Ok(Self::start(stream, outcome, options))
    }

    /// The same over a connection of the caller's, such as a tunnel's channel; without TLS.
    pub async fn over<S>(stream: S, export: &str, options: &ConnectOptions) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let wanted = wanted(export, Purpose::Use, false, options);
        let mut stream: BoxedStream = Box::new(stream);
        let negotiation = async {
            let mut handshake = Handshake::new(wanted);
            negotiate(&mut stream, &mut handshake).await?;
            Ok(handshake.outcome())
        };
        let outcome = in_time(options, negotiation).await?;
        Ok(Self::start(stream, outcome, options))
    }

    /// The exports that the server lists.
    pub async fn list(uri: &NbdUri, options: &ConnectOptions) -> Result<Vec<Listed>> {
        let (_, outcome) = open(uri, Purpose::List, options).await?;
        Ok(outcome.listed)
    }

    /// Describes an export without opening it. `contexts` holds all that the export has.
    pub async fn describe(uri: &NbdUri, options: &ConnectOptions) -> Result<RemoteInfo> {
        let (_, outcome) = open(uri, Purpose::Describe, options).await?;
        Ok(outcome.info)
    }

    fn start(stream: BoxedStream, outcome: Outcome, options: &ConnectOptions) -> Self {
        let Outcome {
            info, context_ids, ..
        } = outcome;
        let session = Session::new(&info, context_ids.clone());
        let shared = Arc::new(Shared::new(session));
        let (calls, queue) = mpsc::unbounded_channel();
        // Not below one block, and in whole blocks.
        let unit = info.block_size.minimum;
        let payload = options.max_payload.min(info.block_size.maximum).max(unit);
        let max_bytes = u32::try_from(options.max_bytes).unwrap_or(u32::MAX).max(1);
        let inner = Inner {
            info,
            context_ids,
            calls,
            shared: Arc::clone(&shared),
            requests: Arc::new(Semaphore::new(options.max_requests.max(1))),
            bytes: Arc::new(Semaphore::new(max_bytes as usize)),
            max_bytes,
            max_payload: u64::from(payload - payload % unit),
        };
        tokio::spawn(driver::run(stream, shared, queue, options.reply_timeout));
        Self {
            inner: Arc::new(inner),
        }
    }
}

fn wanted(export: &str, purpose: Purpose, tls: bool, options: &ConnectOptions) -> Wanted {
    Wanted {
        purpose,
        export: export.to_owned(),
        tls,
        extended: options.extended_headers,
        structured: options.structured_replies,
        contexts: options.contexts.clone(),
    }
}

async fn in_time<T>(options: &ConnectOptions, what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(options.connect_timeout, what)
        .await
        .unwrap_or(Err(ClientError::Timeout("connecting")))
}

async fn open(
    uri: &NbdUri,
    purpose: Purpose,
    options: &ConnectOptions,
) -> Result<(BoxedStream, Outcome)> {
    in_time(options, async {
        // Before the socket: bad certificates are our own fault.
        let tls = prepare_tls(uri, options)?;
        let mut stream: BoxedStream = match &uri.address {
            NbdAddress::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            NbdAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                // The kernel gives what its limit allows; less is only slower. Not so for TCP,
                // whose buffers the kernel sizes well as long as nobody interferes.
                let _ = set_socket_send_buffer_size(&stream, UNIX_SEND_BUFFER);
                Box::new(stream)
            }
        };
        let wanted = wanted(&uri.export, purpose, uri.tls, options);
        let mut handshake = Handshake::new(wanted);
        if negotiate(&mut stream, &mut handshake).await? == Paused::ForTls {
            stream = start_tls(tls, stream).await?;
            handshake.tls_ready();
            negotiate(&mut stream, &mut handshake).await?;
        }
        if purpose != Purpose::Use {
            // ABORT is out; a clean end for TLS too. The peer may have gone before.
            let _ = poll_fn(|cx| std::pin::Pin::new(&mut stream).poll_shutdown(cx)).await;
        }
        Ok((stream, handshake.outcome()))
    })
    .await
}

#[derive(PartialEq, Eq)]
enum Paused {
    ForTls,
    AtItsEnd,
}

async fn negotiate(stream: &mut BoxedStream, handshake: &mut Handshake) -> Result<Paused> {
    let mut bytes = Vec::new();
    loop {
        match handshake.next() {
            Action::Send(out) => {
                stream.write_all(&out).await?;
                stream.flush().await?;
            }
            Action::Receive(len) => {
                // Bounded by the handshake.
                bytes.resize(len, 0);
                stream.read_exact(&mut bytes).await.map_err(hung_up)?;
                handshake.give(&bytes)?;
            }
            Action::StartTls => return Ok(Paused::ForTls),
            Action::Done => return Ok(Paused::AtItsEnd),
        }
    }
}

/// In the handshake a server hangs up on what it will not say: the reader of the error needs to
/// know when it was, not which call saw it.
fn hung_up(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        return io::Error::new(e.kind(), "the server hung up in the handshake");
    }
    e
}

#[cfg(feature = "tls")]
type Tls = Option<(
    Arc<rustls::ClientConfig>,
    rustls::pki_types::ServerName<'static>,
)>;

#[cfg(feature = "tls")]
fn prepare_tls(uri: &NbdUri, options: &ConnectOptions) -> Result<Tls> {
    use super::tls;

    if !uri.tls {
        return Ok(None);
    }
    let dir = uri.tls_certificates.as_ref();
    let dir = dir.or(options.tls_certificates.as_ref());
    let dir = dir.ok_or_else(|| {
        ClientError::Tls("no directory of certificates is named (tls-certificates)".into())
    })?;
    let host = match (&uri.tls_hostname, &uri.address) {
        (Some(name), _) => name,
        (None, NbdAddress::Tcp { host, .. }) => host,
        (None, NbdAddress::Unix(_)) => "localhost",
    };
    Ok(Some((tls::config(dir)?, tls::server_name(host)?)))
}

#[cfg(feature = "tls")]
async fn start_tls(tls: Tls, stream: BoxedStream) -> Result<BoxedStream> {
    let (config, name) = tls.ok_or(ClientError::protocol("TLS that nobody asked for"))?;
    Ok(Box::new(super::tls::connect(config, name, stream).await?))
}

/// What stands in for a configuration where this build has no TLS.
#[cfg(not(feature = "tls"))]
struct Tls;

#[cfg(not(feature = "tls"))]
fn prepare_tls(uri: &NbdUri, _options: &ConnectOptions) -> Result<Tls> {
    if uri.tls {
        return Err(ClientError::Tls("this build has no TLS".into()));
    }
    Ok(Tls)
}

#[cfg(not(feature = "tls"))]
async fn start_tls(_tls: Tls, _stream: BoxedStream) -> Result<BoxedStream> {
    Err(ClientError::Tls("this build has no TLS".into()))
}
