//! Listeners: accept, count against the limit, hand the socket to the next thread.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sendense_nbd::{Limits, Peer, ServeConfig, TlsMode};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::connection;
use super::{Shared, Stop};

/// How a listener treats its peers.
#[derive(Debug, Clone, Default)]
pub struct ListenerPolicy {
    /// Whether TLS is required.
    pub tls: TlsMode,
    /// What one connection may cost.
    pub limits: Limits,
}

/// After a failed accept (out of descriptors, mostly): how long to leave the queue alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Binds a unix socket with mode 0660. What lies at `path` is replaced only where it is a socket
/// that nobody listens on any more.
///
/// # Errors
/// `AddrInUse` where somebody does, or where `path` is something else.
pub fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let bound = StdUnixListener::bind(path).or_else(|e| {
        // A file that is no socket refuses a connection too: look at what it is first.
        let stale = e.kind() == io::ErrorKind::AddrInUse
            && std::fs::symlink_metadata(path)?.file_type().is_socket()
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !stale {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        StdUnixListener::bind(path)
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(bound)
}

/// A socket on its way to the thread that will serve it.
enum Socket {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

pub(super) async fn accept_tcp(
    listener: std::net::TcpListener,
    policy: ListenerPolicy,
    shared: Arc<Shared>,
    mut stop: Stop,
) {
    let Some(listener) = ready(
        listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener)),
    ) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.asked() => return,
        };
        match accepted.and_then(|(s, a)| Ok((s.into_std()?, a))) {
            Ok((stream, address)) => hand_over(&shared, &policy, Socket::Tcp(stream, address)),
            Err(e) => pause(&e).await,
        }
    }
}

pub(super) async fn accept_unix(
    listener: StdUnixListener,
    policy: ListenerPolicy,
    shared: Arc<Shared>,
    mut stop: Stop,
) {
    let Some(listener) = ready(
        listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener)),
    ) else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.asked() => return,
        };
        match accepted.and_then(|(s, _)| s.into_std()) {
            Ok(stream) => hand_over(&shared, &policy, Socket::Unix(stream)),
            Err(e) => pause(&e).await,
        }
    }
}

fn ready<T>(listener: io::Result<T>) -> Option<T> {
    listener
        .map_err(|e| tracing::error!("a listener cannot be used: {e}"))
        .ok()
}

async fn pause(e: &io::Error) {
    tracing::warn!("a connection could not be accepted: {e}");
    tokio::time::sleep(PAUSE).await;
}

/// Gives the socket to the next thread, or closes it at once where the server is full.
fn hand_over(shared: &Arc<Shared>, policy: &ListenerPolicy, socket: Socket) {
    let Ok(seat) = Arc::clone(&shared.seats).try_acquire_owned() else {
        tracing::warn!(
            limit = shared.max_connections,
            "a connection is refused: the server is full"
        );
        return;
    };
    let registry = Arc::clone(&shared.registry);
    let stop = shared.stop();
    let mut config = ServeConfig {
        limits: policy.limits.clone(),
        tls: policy.tls.clone(),
        peer: Peer::default(),
    };
    let given = shared.give(Box::new(move |io| {
        Box::pin(async move {
            let _seat = seat;
            match socket {
                Socket::Tcp(stream, address) => {
                    config.peer.address = Some(address);
                    let stream =
                        TcpStream::from_std(stream).and_then(|s| s.set_nodelay(true).map(|()| s));
                    match stream {
                        Ok(s) => connection::run(s, io, registry, config, stop).await,
                        Err(e) => tracing::warn!("a connection is lost: {e}"),
                    }
                }
                Socket::Unix(stream) => match UnixStream::from_std(stream) {
                    Ok(s) => connection::run(s, io, registry, config, stop).await,
                    Err(e) => tracing::warn!("a connection is lost: {e}"),
                },
            }
        })
    }));
    if !given {
        tracing::warn!("a connection is refused: the server stops");
    }
}
