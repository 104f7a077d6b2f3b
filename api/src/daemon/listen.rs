//! The listeners: NBD over TCP and a unix socket, HTTP.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::Context;
use sendense_engine::plane::{ListenerHandle, ListenerPolicy, Plane, bind_unix};
use sendense_nbd::TlsMode;
use sendense_nbd::tls::{ClientCertificates, server_config};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::Limited;
use crate::routes;
use crate::service::{Endpoints, Service};

/// What listens. Dropping it stops listening.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) http: SocketAddr,
    pub(super) nbd: SocketAddr,
    http_socket: TcpListener,
    socket: PathBuf,
    _nbd: [ListenerHandle; 2],
}

impl Listeners {
    /// Binds everything, and serves NBD at once.
    pub(super) fn open(service: &Service, plane: &Plane) -> anyhow::Result<Self> {
        let config = service.config();
        let bind = |what: &str, at: SocketAddr| {
            TcpListener::bind(at).with_context(|| {
                format!("{what} cannot listen on {at}: choose another address, or port 0")
            })
        };
        // HTTP first: where two daemons want one address, neither takes the other's NBD port.
        let http_socket = bind("HTTP", config.listen)?;
        let http = http_socket.local_addr()?;
        let tls = match &config.nbd.tls_dir {
            None => TlsMode::Off,
            Some(dir) => {
                let clients = if config.nbd.tls_verify_peer {
                    ClientCertificates::Required
                } else {
                    ClientCertificates::Ignored
                };
                TlsMode::Required(server_config(dir, clients)?)
            }
        };
        let encrypted = !matches!(tls, TlsMode::Off);
        let nbd_socket = bind("NBD", config.nbd_listen)?;
        let nbd = nbd_socket.local_addr()?;
        let tcp = plane.listen_tcp(nbd_socket, ListenerPolicy { tls })?;
        let socket = config.nbd_socket();
        let unix = bind_unix(&socket)
            .with_context(|| format!("NBD cannot listen on {}", socket.display()))?;
        let unix = plane.listen_unix(unix, ListenerPolicy::default())?;
        service.set_endpoints(Endpoints {
            socket: socket.clone(),
            tcp: (host_of(nbd), nbd.port()),
            tls: encrypted,
        });
        Ok(Self {
            http,
            nbd,
            http_socket,
            socket,
            _nbd: [tcp, unix],
        })
    }

    /// Removes the unix socket, so that nobody connects to nothing.
    pub(super) fn remove_socket(&self) {
        // The next start replaces a stale one in any case.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The host that movers are told: the address, or this machine's name where it is all addresses.
fn host_of(address: SocketAddr) -> String {
    if !address.ip().is_unspecified() {
        return address.ip().to_string();
    }
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Serves HTTP until the stop.
pub(super) fn serve_http(
    service: &Service,
    listeners: &Listeners,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<std::io::Result<()>>> {
    let socket = listeners.http_socket.try_clone()?;
    socket.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(socket)?;
    let router = routes::router(service.clone());
    Ok(tokio::spawn(async move {
        axum::serve(Limited::new(listener), router)
            .with_graceful_shutdown(async move {
                // A sender that is gone has stopped, too.
                let _ = stopped.wait_for(|stop| *stop).await;
            })
            .await
    }))
}
