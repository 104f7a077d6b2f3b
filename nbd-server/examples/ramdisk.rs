//! Serves a RAM disk: `ramdisk [ADDRESS [SIZE]]`, then `nbdcopy disk.img nbd://localhost/ram`.

#![expect(clippy::print_stderr, reason = "an example talks to its terminal")]

use std::error::Error;
use std::rc::Rc;

use sendense_nbd::HeapPool;
use sendense_nbd::memory::{MemExport, Single};
use sendense_nbd::serve::{ServeConfig, serve};
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:10809".into());
    let size = args.next().map_or(Ok(1 << 30), |size| size.parse())?;
    let disks = Rc::new(Single::new("ram", MemExport::new(size)));
    let accept = async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, peer) = listener.accept().await?;
            let disks = Rc::clone(&disks);
            spawn_local(async move {
                let config = ServeConfig::default();
                let end = serve(stream, HeapPool::default(), &*disks, &config).await;
                eprintln!("{peer}: {end:?}");
            });
        }
    };
    LocalSet::new().run_until(accept).await
}
