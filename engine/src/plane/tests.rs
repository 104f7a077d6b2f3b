use std::io::Read;
use std::net::TcpListener;
use std::rc::Rc;

use sendense_nbd::client::{Client, ClientError, ConnectOptions, Refusal};
use sendense_nbd::registry::{Entry, Removal};
use sendense_nbd::{Done, ExportInfo, NbdError, NbdUri, StatusExtent, ZeroFlags};

use super::*;
use crate::pool::{IoBuf, PoolConfig};
use crate::storage::LocalBoxFuture;

/// A disk of 1 MiB that reads as its thread's number of reads; byte 666 panics.
#[derive(Debug)]
struct Odd;

struct OddExport(ExportInfo);

impl Source for Odd {
    fn info(&self) -> ExportInfo {
        ExportInfo::writable(1 << 20)
    }

    fn attach(&self, _io: &Io) -> Rc<dyn DynExport> {
        Rc::new(OddExport(self.info()))
    }
}

impl DynExport for OddExport {
    fn info(&self) -> &ExportInfo {
        &self.0
    }

    fn read(&self, at: u64, mut buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        assert_ne!(at, 666, "a fault for the test");
        buf.as_mut().fill(7);
        Box::pin(async move {
            Done {
                result: Ok(()),
                buf,
            }
        })
    }

    fn write(&self, _at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async move {
            Done {
                result: Err(NbdError::Io),
                buf,
            }
        })
    }

    fn write_zeroes(
        &self,
        _at: u64,
        _len: u64,
        _flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }

    fn trim(&self, _at: u64, _len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }

    fn block_status(
        &self,
        _context: usize,
        _at: u64,
        len: u64,
        _max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        Box::pin(async move { Ok(vec![StatusExtent { len, flags: 0 }]) })
    }
}

struct Rig {
    plane: Plane,
    listener: ListenerHandle,
}

impl Rig {
    fn new(max_connections: usize) -> Self {
        let io = IoConfig {
            pool: PoolConfig::small(),
            ..IoConfig::small()
        };
        let config = PlaneConfig {
            threads: 2,
            io,
            max_connections,
            ..PlaneConfig::default()
        };
        let plane = Plane::start(config).unwrap();
        plane
            .registry()
            .declare("odd", Entry::new(Arc::new(Odd) as Arc<dyn Source>))
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = plane
            .listen_tcp(listener, ListenerPolicy::default())
            .unwrap();
        Self { plane, listener }
    }

    fn uri(&self) -> NbdUri {
        format!("nbd://{}/odd", self.listener.address().unwrap())
            .parse()
            .unwrap()
    }

    async fn client(&self) -> Client {
        Client::connect(&self.uri(), &ConnectOptions::default())
            .await
            .unwrap()
    }

    async fn connections_become(&self, wanted: usize) {
        let mut count = self.plane.shared.connections.subscribe();
        let becomes = count.wait_for(|count| *count == wanted);
        tokio::time::timeout(Duration::from_secs(5), becomes)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn several_connections_read_and_the_plane_counts_them() {
    let rig = Rig::new(10);
    let (a, b, c) = (rig.client().await, rig.client().await, rig.client().await);
    rig.connections_become(3).await;
    for client in [&a, &b, &c] {
        assert_eq!(client.read(5, 3).await.unwrap(), [7, 7, 7]);
        assert!(client.write(0, vec![1; 10], false).await.is_err());
        client.flush().await.unwrap();
    }
    drop((a, b, c));
    rig.connections_become(0).await;
    assert_eq!(rig.plane.engines().len(), 2);
}

#[tokio::test]
async fn a_panic_in_one_connection_ends_that_one_alone() {
    let rig = Rig::new(10);
    let (bad, good) = (rig.client().await, rig.client().await);
    assert!(bad.read(666, 1).await.is_err());
    rig.connections_become(1).await;
    assert_eq!(good.read(0, 1).await.unwrap(), [7]);
    assert_eq!(rig.client().await.read(0, 1).await.unwrap(), [7]);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused_at_once_with_a_reason() {
    let rig = Rig::new(1);
    let first = rig.client().await;
    // As many as may hear why, and one more, which is closed without a word.
    let mut silent = Vec::new();
    for number in 0..=REFUSALS {
        let mut socket = std::net::TcpStream::connect(rig.listener.address().unwrap()).unwrap();
        let greeting = tokio::task::spawn_blocking(move || {
            let read = socket.read(&mut [0; 8]);
            (socket, matches!(read, Ok(1..)))
        });
        let (socket, greeted) = greeting.await.unwrap();
        assert_eq!(greeted, number < REFUSALS, "{number}");
        silent.push(socket);
    }
    assert_eq!(rig.plane.connections(), 1);
    drop(silent);
    let told = async {
        loop {
            match Client::connect(&rig.uri(), &ConnectOptions::default()).await {
                Err(ClientError::Refused { refusal, message }) => break (refusal, message),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(_) => panic!("there is no seat"),
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    let (refusal, message) = told.unwrap();
    assert_eq!(refusal, Refusal::Policy);
    assert_eq!(
        message,
        "the server is full: all of its 1 connections are in use"
    );
    drop(first);
    rig.connections_become(0).await;
    rig.client().await.read(0, 1).await.unwrap();
}

#[tokio::test]
async fn a_hard_removal_cuts_the_connection() {
    let rig = Rig::new(10);
    let client = rig.client().await;
    rig.plane
        .registry()
        .remove("odd", Removal::Safe)
        .unwrap_err();
    let removed = rig.plane.registry().remove("odd", Removal::Hard).unwrap();
    removed.gone().await;
    assert!(client.read(0, 1).await.is_err());
    rig.connections_become(0).await;
}

#[tokio::test]
async fn a_closed_listener_keeps_its_connections() {
    let rig = Rig::new(10);
    let client = rig.client().await;
    let address = rig.listener.address().unwrap();
    let Rig { plane, listener } = rig;
    drop(listener);
    let mut refused = false;
    for _ in 0..100 {
        refused = std::net::TcpStream::connect(address).is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused);
    assert_eq!(client.read(0, 1).await.unwrap(), [7]);
    drop(plane);
    assert!(client.read(0, 1).await.is_err());
}

#[tokio::test]
async fn spawned_work_may_stay_on_its_thread_and_its_panics_are_told() {
    let rig = Rig::new(1);
    let answer = rig.plane.spawn(|io| async move {
        let not_send = Rc::new(io.scratch(4096).await);
        tokio::task::yield_now().await;
        not_send.len()
    });
    fn is_send<T: Send>(it: T) -> T {
        it
    }
    assert_eq!(is_send(answer).await, Ok(4096));
    let panicked = rig.plane.spawn(|_io| async { panic!("on purpose") }).await;
    assert_eq!(
        panicked,
        Err::<(), _>(SpawnError::Panicked("on purpose".into()))
    );
    let early = rig
        .plane
        .spawn(|_io| -> std::future::Ready<()> { panic!("early") })
        .await;
    assert_eq!(early, Err(SpawnError::Panicked("early".into())));
}

#[tokio::test]
async fn shutdown_waits_for_work_then_cuts_and_refuses_what_comes_later() {
    let rig = Rig::new(10);
    let client = rig.client().await;
    let work = rig.plane.spawn(|_io| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        "done"
    });
    let endless = rig.plane.spawn(|_io| std::future::pending::<()>());
    rig.plane.shutdown(Duration::from_millis(200)).await;
    assert_eq!(work.await, Ok("done"));
    assert_eq!(endless.await, Err(SpawnError::Ended));
    assert_eq!(
        rig.plane.spawn(|_io| async {}).await,
        Err(SpawnError::Ended)
    );
    assert!(client.read(0, 1).await.is_err());
    assert!(std::net::TcpStream::connect(rig.listener.address().unwrap()).is_err());
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_a_stale_one_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new(10);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = bind_unix(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o660
    );
    assert_eq!(
        bind_unix(&path).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    let _listening = rig
        .plane
        .listen_unix(listener, ListenerPolicy::default())
        .unwrap();
    let uri: NbdUri = format!("nbd+unix:///odd?socket={}", path.display())
        .parse()
        .unwrap();
    let client = Client::connect(&uri, &ConnectOptions::default())
        .await
        .unwrap();
    assert_eq!(client.read(0, 2).await.unwrap(), [7, 7]);
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    assert!(bind_unix(&dir.path().join("file")).is_err());
}
