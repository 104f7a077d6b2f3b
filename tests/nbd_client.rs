//! Our NBD client against other projects' servers: qemu-nbd, nbdkit, and TLS by GnuTLS.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sendense_nbd::client::{Client, ClientError, ClientPool, ConnectOptions, Refusal};
use sendense_nbd::{NbdError, NbdUri, ZeroFlags};

const MIB: u64 = 1 << 20;

/// A server process on a unix socket in a directory of its own; killed when dropped.
struct Peer {
    child: Child,
    dir: tempfile::TempDir,
}

impl Peer {
    fn start(dir: tempfile::TempDir, program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixStream::connect(dir.path().join("sock")).is_err() {
            assert!(
                child.try_wait().unwrap().is_none(),
                "{program} {args:?} ended"
            );
            assert!(Instant::now() < deadline, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, dir }
    }

    fn nbdkit(args: &[&str]) -> Self {
        let args = [&["-f", "-U", "sock", "-e", "a disk"], args].concat();
        Self::start(tempfile::tempdir().unwrap(), "nbdkit", &args)
    }

    fn qemu_nbd(dir: tempfile::TempDir, image: &str, format: &str) -> Self {
        // qemu-nbd wants an absolute path here.
        let sock = dir.path().join("sock").to_str().unwrap().to_owned();
        let args = ["-k", &sock, "-t", "-e", "8", "-x", "a disk", "-f", format];
        let args = [&args, ["--discard=unmap", image].as_slice()].concat();
        Self::start(dir, "qemu-nbd", &args)
    }

    fn uri(&self) -> NbdUri {
        NbdUri::unix(self.dir.path().join("sock"), "a disk")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), what).await })
        .expect("a minute has passed")
}

fn ok(program: &str, args: &[&str], dir: &Path) {
    let out = Command::new(program).args(args).current_dir(dir).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {out:?}");
}

fn pattern(len: u64, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut byte = || {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (x >> 56).to_le_bytes()[0]
    };
    (0..len).map(|_| byte()).collect()
}

/// Everything a client does to a disk, held against a copy in memory.
async fn exercise(client: &Client, disk: &mut [u8]) {
    let unit = u64::from(client.info().block_size.minimum);
    let at = |n: u64| usize::try_from(n).unwrap();
    let writes = [(0, 4096), (3 * unit, 40 * MIB), (5 * MIB + unit, 17 * unit)];
    for (n, (start, len)) in (7..).zip(writes) {
        let data = pattern(len, n);
        disk[at(start)..at(start + len)].copy_from_slice(&data);
        client.write(start, data, n == 8).await.unwrap();
    }
    let how = ZeroFlags {
        no_hole: true,
        fast: false,
    };
    client.write_zeroes(MIB, MIB, how, false).await.unwrap();
    disk[at(MIB)..at(2 * MIB)].fill(0);
    client.flush().await.unwrap();
    let all = client.read(0, disk.len()).await.unwrap();
    assert!(all == disk, "what was written is not what is read");
    let part = client
        .read_into(2 * MIB - unit, vec![9; at(2 * unit)])
        .await;
    assert_eq!(part.unwrap(), disk[at(2 * MIB - unit)..at(2 * MIB + unit)]);
}

#[test]
fn a_disk_pushed_into_qemu_nbd_is_that_disk() {
    let dir = tempfile::tempdir().unwrap();
    let size = 5 << 30;
    ok(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "a.qcow2", "5G"],
        dir.path(),
    );
    let peer = Peer::qemu_nbd(dir, "a.qcow2", "qcow2");
    let mut disk = vec![0; 64 << 20];
    run(async {
        let options = ConnectOptions::with_allocation();
        let client = Client::connect(&peer.uri(), &options).await.unwrap();
        let info = client.info();
        assert_eq!(info.size, size);
        assert!(info.extended_headers && info.structured_replies && info.multi_conn());
        exercise(&client, &mut disk).await;
        // Longer than 32 bits can say, in one request.
        client.trim(64 * MIB, size - 64 * MIB).await.unwrap();
        let map = client.map("base:allocation", 0, size).await.unwrap();
        let told: u64 = map.iter().map(|(_, e)| e.len).sum();
        assert_eq!(told, size);
        let (at, last) = map.last().unwrap();
        assert!(*at < 64 * MIB && last.flags == 3, "{map:?}");
        let zeroes: u64 = map
            .iter()
            .filter(|(_, e)| e.flags & 2 != 0)
            .map(|(_, e)| e.len)
            .sum();
        assert!(zeroes >= size - 41 * MIB, "{map:?}");
        client.disconnect().await;
    });
    let dir = peer.dir.path().to_owned();
    std::fs::write(dir.join("copy.raw"), &disk).unwrap();
    ok(
        "qemu-img",
        &["resize", "-q", "-f", "raw", "copy.raw", "5G"],
        &dir,
    );
    let compare = [
        "compare", "-U", "-q", "-f", "raw", "-F", "qcow2", "copy.raw", "a.qcow2",
    ];
    ok("qemu-img", &compare, &dir);
}

#[test]
fn every_form_of_nbdkit_is_understood() {
    let unit = "blocksize-minimum=512";
    for (args, structured, block) in [
        (vec!["memory", "64M"], true, 1),
        (vec!["--no-sr", "memory", "64M"], false, 1),
        (vec!["--mask-handshake=0", "memory", "64M"], false, 1),
        (
            vec![
                "--filter=blocksize-policy",
                "memory",
                "64M",
                unit,
                "blocksize-error-policy=error",
            ],
            true,
            512,
        ),
    ] {
        let peer = Peer::nbdkit(&args);
        run(async {
            let options = ConnectOptions::with_allocation();
            let client = Client::connect(&peer.uri(), &options).await.unwrap();
            let info = client.info();
            assert_eq!(info.size, 64 * MIB, "{args:?}");
            assert_eq!(info.structured_replies, structured, "{args:?}");
            assert_eq!(info.has_context("base:allocation"), structured, "{args:?}");
            assert_eq!(info.block_size.minimum, block, "{args:?}");
            exercise(&client, &mut vec![0; 64 << 20]).await;
            client.disconnect().await;
        });
    }
}

#[test]
fn errors_of_a_server_reach_their_call() {
    let peer = Peer::nbdkit(&[
        "--filter=error",
        "memory",
        "1M",
        "error-pwrite=ENOSPC",
        "error-pwrite-rate=100%",
    ]);
    run(async {
        let options = ConnectOptions::default();
        let client = Client::connect(&peer.uri(), &options).await.unwrap();
        let error = client.write(512, vec![1; 512], false).await.unwrap_err();
        assert_eq!(error.errno(), Some(NbdError::NoSpace));
        assert!(!error.is_fatal());
        assert_eq!(client.read(512, 512).await.unwrap(), [0; 512]);
    });
    drop(peer);
    // The server is killed under a waiting call: it fails, it does not hang.
    let mut peer = Peer::nbdkit(&["--filter=delay", "memory", "1M", "rdelay=30"]);
    run(async {
        let options = ConnectOptions::default();
        let client = Client::connect(&peer.uri(), &options).await.unwrap();
        let waiting = client.read(0, 512);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            peer.child.kill().unwrap();
        };
        let (read, ()) = tokio::join!(waiting, kill);
        assert!(matches!(read, Err(ClientError::Io(_))), "{read:?}");
    });
}

#[test]
fn exports_are_listed_described_and_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("r"), vec![0; 1 << 20]).unwrap();
    let peer = Peer::qemu_nbd(dir, "r", "raw");
    run(async {
        let options = ConnectOptions::default();
        let listed = Client::list(&peer.uri(), &options).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, "a disk");
        let info = Client::describe(&peer.uri(), &options).await.unwrap();
        assert_eq!(info.size, MIB);
        assert_eq!(info.contexts, ["base:allocation"]);
        let other = NbdUri::unix(peer.dir.path().join("sock"), "another");
        let error = Client::connect(&other, &options).await.unwrap_err();
        let refusal = Refusal::Unknown;
        assert!(matches!(error, ClientError::Refused { refusal: r, .. } if r == refusal));
    });
}

#[test]
fn connections_of_a_pool_write_one_disk() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("r"))
        .unwrap()
        .set_len(32 * MIB)
        .unwrap();
    let peer = Peer::qemu_nbd(dir, "r", "raw");
    let disk = pattern(32 * MIB, 3);
    run(async {
        let options = ConnectOptions::default();
        let pool = ClientPool::connect(&peer.uri(), 4, &options).await.unwrap();
        assert_eq!(pool.len(), 4);
        let mut tasks = tokio::task::JoinSet::new();
        for (at, part) in (0..).step_by(100_000).zip(disk.chunks(100_000)) {
            let (pool, part) = (pool.clone(), part.to_vec());
            tasks.spawn(async move { pool.write(at, part, false).await });
        }
        for done in tasks.join_all().await {
            done.unwrap();
        }
        pool.flush().await.unwrap();
        pool.disconnect().await;
    });
    assert!(std::fs::read(peer.dir.path().join("r")).unwrap() == disk);
}

/// A CA, a server and a client certificate, made by GnuTLS's own tool.
fn pki(dir: &Path) -> (PathBuf, PathBuf) {
    let (server, client) = (dir.join("server"), dir.join("client"));
    std::fs::create_dir(&server).unwrap();
    std::fs::create_dir(&client).unwrap();
    let key = |name: &str| {
        ok(
            "certtool",
            &["--generate-privkey", "--key-type=ecdsa", "--outfile", name],
            dir,
        );
    };
    let template = |text: &str| std::fs::write(dir.join("template"), text).unwrap();
    key("ca-key.pem");
    template("cn = Test CA\nca\ncert_signing_key\nexpiration_days = 2\n");
    let ca = ["--load-privkey", "ca-key.pem", "--template", "template"];
    let out = ["--generate-self-signed", "--outfile", "server/ca-cert.pem"];
    ok("certtool", &[&ca[..], &out[..]].concat(), dir);
    let ca_cert = "server/ca-cert.pem";
    for (name, text) in [
        (
            "server/server",
            "cn = server\ndns_name = localhost\ntls_www_server\n",
        ),
        ("client/client", "cn = agent\ntls_www_client\n"),
    ] {
        let (key_file, cert_file) = (format!("{name}-key.pem"), format!("{name}-cert.pem"));
        key(&key_file);
        template(&format!("{text}signing_key\nexpiration_days = 2\n"));
        let sign = ["--generate-certificate", "--load-ca-certificate", ca_cert];
        let by = [
            "--load-ca-privkey",
            "ca-key.pem",
            "--load-privkey",
            &key_file,
        ];
        let to = ["--template", "template", "--outfile", &cert_file];
        ok("certtool", &[&sign[..], &by[..], &to[..]].concat(), dir);
    }
    std::fs::copy(dir.join(ca_cert), client.join("ca-cert.pem")).unwrap();
    (server, client)
}

#[test]
fn tls_verifies_the_server_and_is_never_downgraded() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = pki(dir.path());
    let certificates = format!("--tls-certificates={}", server.display());
    let args = [
        "--tls=require",
        &certificates,
        "--tls-verify-peer",
        "memory",
        "64M",
    ];
    let peer = Peer::nbdkit(&args);
    let connect = |uri: NbdUri| {
        run(async move {
            let client = Client::connect(&uri, &ConnectOptions::with_allocation()).await?;
            assert!(client.info().tls);
            exercise(&client, &mut vec![0; 64 << 20]).await;
            client.disconnect().await;
            Ok::<_, ClientError>(())
        })
    };
    let good = peer.uri().with_tls(Some(client.clone()));
    connect(good.clone()).unwrap();
    // Another name, another CA, no client certificate, no TLS: each is the end.
    let mut other_name = good;
    other_name.tls_hostname = Some("other.example".into());
    let error = connect(other_name).unwrap_err();
    assert!(matches!(error, ClientError::Tls(_)), "{error:?}");
    let elsewhere = tempfile::tempdir().unwrap();
    let (_, foreign) = pki(elsewhere.path());
    let error = connect(peer.uri().with_tls(Some(foreign))).unwrap_err();
    assert!(matches!(error, ClientError::Tls(_)), "{error:?}");
    std::fs::remove_file(client.join("client-cert.pem")).unwrap();
    let error = connect(peer.uri().with_tls(Some(client.clone()))).unwrap_err();
    assert!(error.to_string().contains("client-cert.pem"), "{error}");
    std::fs::remove_file(client.join("client-key.pem")).unwrap();
    assert!(connect(peer.uri().with_tls(Some(client.clone()))).is_err());
    let refused = |result: Result<(), ClientError>, wanted| match result {
        Err(ClientError::Refused { refusal, .. }) => assert_eq!(refusal, wanted),
        other => panic!("{other:?}"),
    };
    refused(connect(peer.uri()), Refusal::TlsRequired);
    let plain = Peer::nbdkit(&["memory", "64M"]);
    refused(connect(plain.uri().with_tls(Some(client))), Refusal::NoTls);
}
