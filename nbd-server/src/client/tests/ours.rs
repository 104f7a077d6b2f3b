//! The client against this crate's own server: each form, both ends limited, TLS by rustls.

use std::rc::Rc;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::buffer::HeapPool;
use crate::export::ExportInfo;
use crate::memory::{MemExport, Single};
use crate::serve::{ServeConfig, serve};
use crate::uri::NbdUri;

const SIZE: usize = (9 << 20) + 512;

/// A server of one RAM disk named "disk" that takes connections on a socket in `dir`.
fn listen(dir: &std::path::Path, config: ServeConfig, info: ExportInfo) -> NbdUri {
    let path = dir.join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let exports = Rc::new(Single::new("disk", MemExport::with_info(info)));
    spawn_local(async move {
        loop {
            let (stream, _): (UnixStream, _) = listener.accept().await.unwrap();
            let (exports, config) = (Rc::clone(&exports), config.clone());
            spawn_local(
                async move { serve(stream, HeapPool::default(), &*exports, &config).await },
            );
        }
    });
    NbdUri::unix(path, "disk")
}

fn run(what: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let what = async { tokio::time::timeout(Duration::from_secs(30), what).await };
    LocalSet::new().block_on(&runtime, what).expect("it hangs");
}

/// A small generator: the same on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

/// Random operations, many at once on ranges that do not overlap, against a copy in memory.
async fn stir(client: &Client, dice: &mut Dice) {
    let mut disk = vec![0u8; SIZE];
    for round in 0..12u8 {
        let lane = SIZE / 8;
        let mut calls = Vec::new();
        for (n, part) in disk.chunks_mut(lane).enumerate() {
            let from = dice.roll(part.len());
            let len = dice.roll(part.len() - from) + 1;
            let (at, kind) = ((n * lane + from) as u64, dice.roll(5));
            let piece = &mut part[from..from + len];
            let client = client.clone();
            let expected = piece.to_vec();
            if kind > 1 {
                piece.fill(if kind == 2 { 0 } else { round + 1 });
            }
            let content = piece.to_vec();
            calls.push(async move {
                match kind {
                    0 => assert!(client.read(at, len).await.unwrap() == expected),
                    1 => {
                        let map = client.map("base:allocation", at, len as u64).await.unwrap();
                        for (start, extent) in map {
                            let from = usize::try_from(start - at).unwrap();
                            let to = from + usize::try_from(extent.len).unwrap();
                            let zero = extent.flags & wire::STATE_ZERO != 0;
                            assert!(!zero || expected[from..to].iter().all(|b| *b == 0));
                        }
                    }
                    2 => {
                        let how = ZeroFlags::default();
                        client
                            .write_zeroes(at, len as u64, how, true)
                            .await
                            .unwrap();
                    }
                    _ => client.write(at, content, kind == 4).await.unwrap(),
                }
            });
        }
        join_all(calls).await;
    }
    client.flush().await.unwrap();
    assert!(client.read(0, SIZE).await.unwrap() == disk);
}

#[test]
fn every_form_and_limit_carries_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        for (n, (structured_replies, extended_headers, max_payload, max_requests)) in [
            (false, false, 32 << 20, 64),
            (true, false, 70_000, 64),
            (true, true, 32 << 20, 1),
            (true, true, 4096, 8),
        ]
        .into_iter()
        .enumerate()
        {
            let dir = dir.path().join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            let mut config = ServeConfig::default();
            config.limits.requests = 5;
            config.limits.status_extents = 3;
            let uri = listen(&dir, config, ExportInfo::writable(SIZE as u64));
            let options = ConnectOptions {
                structured_replies: true,
                extended_headers,
                max_payload,
                max_requests,
                ..options()
            };
            let client = Client::connect(&uri, &options).await.unwrap();
            assert_eq!(client.info().extended_headers, extended_headers);
            stir(&client, &mut Dice(n as u64)).await;
            client.disconnect().await;
            if !structured_replies {
                let options = ConnectOptions {
                    structured_replies,
                    ..options
                };
                let client = Client::connect(&uri, &options).await.unwrap();
                assert!(!client.info().structured_replies);
                client.write(5, vec![7; 100_000], true).await.unwrap();
                assert_eq!(client.read(5, 100_000).await.unwrap(), [7; 100_000]);
            }
        }
    });
}

#[test]
fn exports_are_listed_described_pooled_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let info = ExportInfo {
            description: Some("a RAM disk".into()),
            ..ExportInfo::read_only(4096)
        };
        let uri = listen(dir.path(), ServeConfig::default(), info);
        let options = options();
        let listed = Client::list(&uri, &options).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&*listed[0].name, &*listed[0].description),
            ("disk", "a RAM disk")
        );
        let info = Client::describe(&uri, &options).await.unwrap();
        assert_eq!((info.size, info.read_only()), (4096, true));
        assert_eq!(info.description.as_deref(), Some("a RAM disk"));
        assert_eq!(info.contexts, ["base:allocation"]);
        let pool = ClientPool::connect(&uri, 3, &options).await.unwrap();
        assert_eq!(pool.len(), 3);
        assert_eq!(pool.read(0, 4096).await.unwrap(), [0; 4096]);
        pool.disconnect().await;
        let other = NbdUri::unix(uri.socket().unwrap(), "backup-x");
        for error in [
            Client::connect(&other, &options).await.unwrap_err(),
            Client::describe(&other, &options).await.unwrap_err(),
        ] {
            let refusal = Refusal::Unknown;
            assert!(matches!(error, ClientError::Refused { refusal: r, .. } if r == refusal));
        }
    });
}

#[test]
fn a_runtime_with_many_threads_drives_it_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async {
            let info = ExportInfo::writable(1 << 20);
            tell.send(listen(&path, ServeConfig::default(), info))
                .unwrap();
            std::future::pending::<()>().await;
        });
    });
    let uri = told.recv().unwrap();
    // The handle is used from threads that have no runtime of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(Client::connect(&uri, &options())).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let driver = std::thread::spawn(move || runtime.block_on(stopped));
    let users: Vec<_> = (0..4u8)
        .map(|n| {
            let client = client.clone();
            std::thread::spawn(move || {
                let at = u64::from(n) * 4096;
                let local = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                local.block_on(async {
                    client.write(at, vec![n; 4096], false).await.unwrap();
                    assert_eq!(client.read(at, 4096).await.unwrap(), [n; 4096]);
                });
            })
        })
        .collect();
    for user in users {
        user.join().unwrap();
    }
    stop.send(()).unwrap();
    driver.join().unwrap().unwrap();
}

#[cfg(feature = "tls")]
#[test]
fn tls_meets_our_own_server() {
    use crate::serve::TlsMode;
    use crate::tls::{ClientCertificates, server_config};

    let dir = tempfile::tempdir().unwrap();
    let (server, client) = pki(dir.path());
    run(async {
        let config = server_config(&server, ClientCertificates::Required).unwrap();
        let config = ServeConfig {
            tls: TlsMode::Required(config),
            ..ServeConfig::default()
        };
        let plain = listen(dir.path(), config, ExportInfo::writable(SIZE as u64));
        let uri = plain.clone().with_tls(Some(client.clone()));
        let disk = Client::connect(&uri, &options()).await.unwrap();
        assert!(disk.info().tls);
        stir(&disk, &mut Dice(3)).await;
        disk.disconnect().await;
        let error = Client::connect(&plain, &options()).await.unwrap_err();
        let refusal = Refusal::TlsRequired;
        assert!(matches!(error, ClientError::Refused { refusal: r, .. } if r == refusal));
        let mut other = uri;
        other.tls_hostname = Some("elsewhere".into());
        let error = Client::connect(&other, &options()).await.unwrap_err();
        assert!(matches!(error, ClientError::Tls(_)), "{error:?}");
        std::fs::remove_file(client.join("client-cert.pem")).unwrap();
        std::fs::remove_file(client.join("client-key.pem")).unwrap();
        let anonymous = plain.with_tls(Some(client));
        assert!(Client::connect(&anonymous, &options()).await.is_err());
    });
}

/// A CA, and what it signed, in two directories.
#[cfg(feature = "tls")]
fn pki(dir: &std::path::Path) -> (std::path::PathBuf, std::path::PathBuf) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let make = |role: &str| {
        let dir = dir.join(role);
        std::fs::create_dir(&dir).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let cert = cert.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join("ca-cert.pem"), &ca_pem).unwrap();
        std::fs::write(dir.join(format!("{role}-cert.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{role}-key.pem")), key.serialize_pem()).unwrap();
        dir
    };
    (make("server"), make("client"))
}
