//! Listening sockets: accept on one thread, hand over to all in turn.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::sockopt;
use sendense_nbd::{Peer, TlsMode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Counted, Phase, Plane, Shared, connection};

/// How long accepting rests when the system is out of descriptors or memory.
const REST: Duration = Duration::from_millis(100);

/// What holds for the connections of one listener.
#[derive(Debug, Clone, Default)]
pub struct ListenerPolicy {
    /// Whether TLS is spoken.
    pub tls: TlsMode,
}

/// A listener that runs. Dropping it stops listening; its connections stay.
#[derive(Debug)]
pub struct ListenerHandle {
    policy: Arc<Mutex<ListenerPolicy>>,
    address: Option<SocketAddr>,
    /// Dropping it ends the accept loop.
    _open: watch::Sender<()>,
}

impl ListenerHandle {
    /// The address of a TCP listener, with the port that was found for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Lets connections from now on follow another policy (certificates renewed, for example).
    pub fn set_policy(&self, policy: ListenerPolicy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

/// Either kind of listening socket, inside of a runtime.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection on its way from the accepting thread to its own.
enum Socket {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(StdUnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A peer that vanished without a word gives its slot back some day.
                sockopt::set_socket_keepalive(&stream, true)?;
                Ok(Socket::Tcp(stream.into_std()?, address))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl Plane {
    /// Serves NBD on a listening TCP socket.
    pub fn listen_tcp(
        &self,
        listener: std::net::TcpListener,
        policy: ListenerPolicy,
    ) -> io::Result<ListenerHandle> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let make = move || TcpListener::from_std(listener).map(Listener::Tcp);
        self.listen(make, policy, Some(address))
    }

    /// Serves NBD on a listening unix socket; see [`bind_unix`].
    pub fn listen_unix(
        &self,
        listener: StdUnixListener,
        policy: ListenerPolicy,
    ) -> io::Result<ListenerHandle> {
        listener.set_nonblocking(true)?;
        self.listen(
            move || UnixListener::from_std(listener).map(Listener::Unix),
            policy,
            None,
        )
    }

    fn listen(
        &self,
        make: impl FnOnce() -> io::Result<Listener> + Send + 'static,
        policy: ListenerPolicy,
        address: Option<SocketAddr>,
    ) -> io::Result<ListenerHandle> {
        let policy = Arc::new(Mutex::new(policy));
        let (open, closed) = watch::channel(());
        let thread = self.shared.a_thread().ok_or(io::ErrorKind::NotConnected)?;
        let (shared, current) = (Arc::clone(&self.shared), Arc::clone(&policy));
        thread.run(move |_io| {
            Box::pin(async move {
                match make() {
                    Ok(listener) => accept_all(listener, current, closed, shared).await,
                    Err(error) => tracing::error!(%error, "a listening socket cannot be used"),
                }
            })
        });
        Ok(ListenerHandle {
            policy,
            address,
            _open: open,
        })
    }
}

async fn accept_all(
    listener: Listener,
    policy: Arc<Mutex<ListenerPolicy>>,
    mut closed: watch::Receiver<()>,
    shared: Arc<Shared>,
) {
    let mut phase = shared.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Only ever an error: the sender is gone.
            _ = closed.changed() => return,
            _ = phase.wait_for(|phase| *phase > Phase::Serving) => return,
        };
        match accepted {
            Ok(socket) => {
                let policy = policy
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                hand_over(socket, policy, &shared);
            }
            Err(error) => {
                // The peer has gone again, or we are out of something: neither ends the listener.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn hand_over(socket: Socket, policy: ListenerPolicy, shared: &Arc<Shared>) {
    let limit = shared.max_connections;
    let seat = if let Ok(permit) = Arc::clone(&shared.seats).try_acquire_owned() {
        Seat {
            _permit: permit,
            served: Some(Counted::new(shared, |shared| &shared.connections)),
        }
    } else if let Ok(permit) = Arc::clone(&shared.refusals).try_acquire_owned() {
        tracing::warn!(limit, "a connection is refused: all of them are in use");
        Seat {
            _permit: permit,
            served: None,
        }
    } else {
        tracing::warn!(
            limit,
            "a connection is closed unanswered: all of them are in use, and many are being refused"
        );
        return;
    };
    let Some(thread) = shared.a_thread() else {
        return;
    };
    let shared = Arc::clone(shared);
    thread.run(move |io| Box::pin(serve(socket, policy, shared, io, seat)));
}

/// What a connection holds while it lives.
struct Seat {
    _permit: OwnedSemaphorePermit,
    /// `None` where it only hears a refusal.
    served: Option<Counted>,
}

async fn serve(
    socket: Socket,
    policy: ListenerPolicy,
    shared: Arc<Shared>,
    io: crate::io::Io,
    seat: Seat,
) {
    let served = seat.served.is_some();
    let failed = match socket {
        Socket::Tcp(stream, address) => match TcpStream::from_std(stream) {
            Ok(stream) => {
                let peer = Peer {
                    address: Some(address),
                    ..Peer::default()
                };
                return answer(stream, peer, policy.tls, shared, io, served).await;
            }
            Err(error) => error,
        },
        Socket::Unix(stream) => match UnixStream::from_std(stream) {
            Ok(stream) => {
                let peer = Peer::default();
                return answer(stream, peer, policy.tls, shared, io, served).await;
            }
            Err(error) => error,
        },
    };
    tracing::warn!(error = %failed, "an accepted connection cannot be used");
}

async fn answer<S>(
    stream: S,
    peer: Peer,
    tls: TlsMode,
    shared: Arc<Shared>,
    io: crate::io::Io,
    served: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    if served {
        connection::run(stream, peer, tls, shared, io).await;
    } else {
        connection::refuse(stream, peer, tls, shared, io).await;
    }
}

/// Binds a unix socket with mode 0660. A socket file that nobody listens on any more is replaced;
/// anything else in that place is `AddrInUse`.
pub fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let listener = match StdUnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            StdUnixListener::bind(path)?
        }
        other => other?,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && StdUnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
