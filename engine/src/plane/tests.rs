use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use sendense_nbd::client::{Client, ConnectOptions};
use sendense_nbd::registry::{Entry, Removal};
use sendense_nbd::{Done, ExportInfo, NbdError, NbdUri, StatusExtent, ZeroFlags};

use super::*;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// A disk of a single value that remembers nothing; byte 13 panics.
#[derive(Debug)]
struct Plain;

struct Attached(ExportInfo);

impl Source for Plain {
    fn info(&self) -> ExportInfo {
        ExportInfo::writable(1 << 20)
    }

    fn attach(&self, _: &Io) -> Rc<dyn DynExport> {
        Rc::new(Attached(self.info()))
    }
}

impl DynExport for Attached {
    fn info(&self) -> &ExportInfo {
        &self.0
    }
    fn read(&self, at: u64, mut buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        assert_ne!(at, 13, "a bad day");
        buf.as_mut().fill(7);
        Box::pin(async {
            Done {
                result: Ok(()),
                buf,
            }
        })
    }
    fn write(&self, _: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async {
            Done {
                result: Ok(()),
                buf,
            }
        })
    }
    fn write_zeroes(
        &self,
        _: u64,
        _: u64,
        _: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }
    fn trim(&self, _: u64, _: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }
    fn block_status(
        &self,
        _: usize,
        _: u64,
        len: u64,
        _: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        Box::pin(async move { Ok(vec![StatusExtent { len, flags: 0 }]) })
    }
}

fn plane(max_connections: usize) -> Plane {
    let plane = Plane::start(PlaneConfig {
        threads: 2,
        io: IoConfig::small(),
        max_connections,
    })
    .unwrap();
    plane
        .registry()
        .declare("disk", Entry::new(Arc::new(Plain) as Arc<dyn Source>))
        .unwrap();
    plane
}

fn listening(plane: &Plane, dir: &tempfile::TempDir) -> NbdUri {
    let socket = dir.path().join("s");
    plane.listen_unix(bind_unix(&socket).unwrap(), ListenerPolicy::default());
    format!("nbd+unix:///disk?socket={}", socket.display())
        .parse()
        .unwrap()
}

async fn connect(uri: &NbdUri) -> Client {
    Client::connect(uri, &ConnectOptions::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_connection_is_served_and_a_panic_cuts_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let plane = plane(8);
    let uri = listening(&plane, &dir);
    let (one, two) = (connect(&uri).await, connect(&uri).await);
    assert_eq!(one.read(0, 4).await.unwrap(), [7; 4]);
    one.read(13, 1).await.unwrap_err();
    assert_eq!(two.read(0, 4).await.unwrap(), [7; 4]);
    let three = connect(&uri).await;
    assert_eq!(three.read(0, 4).await.unwrap(), [7; 4]);
}

#[tokio::test]
async fn hard_removal_cuts_whoever_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let plane = plane(8);
    let uri = listening(&plane, &dir);
    let client = connect(&uri).await;
    let removed = plane.registry().remove("disk", Removal::Hard).unwrap();
    removed.gone().await;
    client.read(0, 4).await.unwrap_err();
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let plane = plane(1);
    let uri = listening(&plane, &dir);
    let first = connect(&uri).await;
    Client::connect(&uri, &ConnectOptions::default())
        .await
        .unwrap_err();
    assert_eq!(first.read(0, 4).await.unwrap(), [7; 4]);
}

#[tokio::test]
async fn spawned_work_answers_from_a_data_thread_and_a_panic_is_an_error() {
    let plane = plane(1);
    let name = plane
        .spawn(|_| async { std::thread::current().name().map(str::to_owned) })
        .await
        .unwrap();
    assert!(name.unwrap().starts_with("data-"));
    let lost = plane.spawn(|_| async { assert_eq!(1, 2) }).await;
    assert_eq!(lost, Err(GivenUp));
}

#[tokio::test]
async fn the_stop_ends_listeners_connections_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Arc::new(plane(8));
    let uri = listening(&plane, &dir);
    let client = connect(&uri).await;
    let stopping = Arc::clone(&plane);
    tokio::task::spawn_blocking(move || stopping.shutdown())
        .await
        .unwrap();
    client.read(0, 4).await.unwrap_err();
    assert!(UnixStream::connect(dir.path().join("s")).is_err());
    assert_eq!(plane.spawn(|_| async {}).await, Err(GivenUp));
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    drop(bind_unix(&socket).unwrap());
    let live = bind_unix(&socket).unwrap();
    assert_eq!(
        bind_unix(&socket).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    drop(live);
    let file = dir.path().join("f");
    std::fs::write(&file, "keep").unwrap();
    bind_unix(&file).unwrap_err();
    assert_eq!(std::fs::read(&file).unwrap(), b"keep");
}
