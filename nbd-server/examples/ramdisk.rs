//! Serves a RAM disk: `ramdisk ADDRESS|/PATH.sock [SIZE [TLS-DIRECTORY]]`, then for instance
//! `nbdcopy disk.img nbd://localhost:10809/ram`.

#![expect(clippy::print_stderr, reason = "an example talks to its terminal")]

use std::error::Error;
use std::rc::Rc;

use sendense_nbd::HeapPool;
use sendense_nbd::memory::{MemExport, Single};
use sendense_nbd::serve::{ServeConfig, TlsMode, serve};
use sendense_nbd::tls::{ClientCertificates, server_config};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{LocalSet, spawn_local};

/// What every connection shares.
struct Server {
    disks: Single<MemExport>,
    config: ServeConfig,
}

fn welcome(server: &Rc<Server>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let server = Rc::clone(server);
    spawn_local(async move {
        let end = serve(stream, HeapPool::default(), &server.disks, &server.config).await;
        eprintln!("{end:?}");
    });
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:10809".into());
    let size = args.next().map_or(Ok(1 << 30), |size| size.parse())?;
    let mut config = ServeConfig::default();
    if let Some(dir) = args.next() {
        config.tls = TlsMode::Required(server_config(dir.as_ref(), ClientCertificates::Ignored)?);
    }
    let disks = Single::new("ram", MemExport::new(size));
    let server = Rc::new(Server { disks, config });
    let accept = async move {
        if address.starts_with('/') {
            let listener = UnixListener::bind(address)?;
            loop {
                welcome(&server, listener.accept().await?.0);
            }
        }
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            welcome(&server, stream);
        }
    };
    LocalSet::new().run_until(accept).await
}
