//! The listeners: NBD over TCP and a unix socket, HTTP.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sendense_engine::plane::{ListenerHandle, ListenerPolicy, Plane, bind_unix};
use sendense_engine::sys::activation::Inherited;
use sendense_nbd::TlsMode;
use sendense_nbd::tls::{ClientCertificates, server_config};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::Limited;
use crate::config::Config;
use crate::routes;
use crate::service::{Certificates, Endpoints, Service};

/// What listens. Dropping it stops listening.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) http: SocketAddr,
    pub(super) nbd: SocketAddr,
    http_socket: TcpListener,
    socket: PathBuf,
    _nbd: Vec<Arc<ListenerHandle>>,
}

impl Listeners {
    /// Binds everything that was not handed over, and serves NBD at once.
    pub(super) fn open(
        service: &Service,
        plane: &Plane,
        inherited: Vec<(String, Inherited)>,
    ) -> anyhow::Result<Self> {
        let config = service.config();
        let bind = |what: &str, at: SocketAddr| {
            TcpListener::bind(at).with_context(|| {
                format!("{what} cannot listen on {at}: choose another address, or port 0")
            })
        };
        let given = Given::sort(inherited, config)?;
        // HTTP first: where two daemons want one address, neither takes the other's NBD port.
        let http_socket = match given.http {
            Some(socket) => socket,
            None => bind("HTTP", config.listen)?,
        };
        let http = http_socket.local_addr()?;
        let clients = if config.nbd.tls_verify_peer {
            ClientCertificates::Required
        } else {
            ClientCertificates::Ignored
        };
        let tls = match &config.nbd.tls_dir {
            None => TlsMode::Off,
            Some(dir) => TlsMode::Required(server_config(dir, clients)?),
        };
        let encrypted = !matches!(tls, TlsMode::Off);
        let nbd_socket = match given.nbd {
            Some(socket) => socket,
            None => bind("NBD", config.nbd_listen)?,
        };
        let nbd = nbd_socket.local_addr()?;
        let tcp = Arc::new(plane.listen_tcp(nbd_socket, ListenerPolicy { tls })?);
        if let Some(dir) = &config.nbd.tls_dir {
            let listener = Arc::downgrade(&tcp);
            service.set_certificates(Certificates::new(dir.clone(), clients, listener));
        }
        let socket = config.nbd_socket();
        let unix = bind_unix(&socket)
            .with_context(|| format!("NBD cannot listen on {}", socket.display()))?;
        let mut listening = vec![tcp];
        for unix in std::iter::once(unix).chain(given.unix) {
            let unix = plane.listen_unix(unix, ListenerPolicy::default())?;
            listening.push(Arc::new(unix));
        }
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
            _nbd: listening,
        })
    }

    /// Removes the unix socket, so that nobody connects to nothing.
    pub(super) fn remove_socket(&self) {
        // The next start replaces a stale one in any case.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The sockets that a supervisor opened, by their use.
#[derive(Default)]
struct Given {
    http: Option<TcpListener>,
    nbd: Option<TcpListener>,
    unix: Vec<UnixListener>,
}

impl Given {
    /// A socket that others can reach needs the same word as an address of ours.
    fn sort(inherited: Vec<(String, Inherited)>, config: &Config) -> anyhow::Result<Self> {
        let mut given = Self::default();
        for (name, socket) in inherited {
            let socket = match socket {
                Inherited::Unix(socket) => {
                    given.unix.push(socket);
                    continue;
                }
                Inherited::Tcp(socket) => socket,
            };
            let at = socket.local_addr()?;
            let is_http = name == "http";
            let encrypted = !is_http && config.nbd.tls_dir.is_some();
            if !config.insecure_listen && !encrypted && !at.ip().is_loopback() {
                anyhow::bail!(
                    "the socket {name:?} on {at} was handed over; others can reach it and there \
                     is no TLS on it: bind it to a loopback address, or pass --insecure-listen"
                );
            }
            let place = if is_http {
                &mut given.http
            } else {
                &mut given.nbd
            };
            if place.replace(socket).is_some() {
                anyhow::bail!("more than one TCP socket was handed over for one use ({name:?})");
            }
        }
        Ok(given)
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
