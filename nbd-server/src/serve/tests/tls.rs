//! STARTTLS: nothing before it, nothing left of before it, and the names in certificates.

use std::io::Write as _;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{ClientCertificates, server_config};
use crate::wire::{cmd, meta_context_data};

/// A directory as GnuTLS programs expect it, with a client's files beside.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let mut file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        put("ca-cert.pem", &ca.pem());
        for (who, name) in [("server", "localhost"), ("client", "agent7.example")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params
                .distinguished_name
                .push(DnType::CommonName, format!("the {who}"));
            params
                .subject_alt_names
                .push(SanType::Rfc822Name(format!("{who}@x").try_into().unwrap()));
            params.serial_number = Some(SerialNumber::from(if who == "client" { 7 } else { 8 }));
            let certificate = params.signed_by(&key, &ca).unwrap();
            put(&format!("{who}-cert.pem"), &certificate.pem());
            put(&format!("{who}-key.pem"), &key.serialize_pem());
        }
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        put("revoked.pem", &list.signed_by(&ca).unwrap().pem().unwrap());
        Self { dir }
    }

    fn serve(&self, clients: ClientCertificates) -> ServeConfig {
        let tls = server_config(self.dir.path(), clients).unwrap();
        ServeConfig {
            tls: TlsMode::Required(tls),
            ..ServeConfig::default()
        }
    }

    fn connector(&self, certificate: bool) -> TlsConnector {
        let path = |name: &str| self.dir.path().join(name);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(path("ca-cert.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = if certificate {
            let chain = vec![CertificateDer::from_pem_file(path("client-cert.pem")).unwrap()];
            let key = PrivateKeyDer::from_pem_file(path("client-key.pem")).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}

async fn run<T>(
    cfg: ServeConfig,
    client: impl AsyncFnOnce(Raw) -> T,
) -> (Result<Summary, ServeError>, T) {
    let spy = Spy::new(ExportInfo::writable(1 << 20));
    against(&spy, FewPool::new(2), cfg, client).await
}

#[tokio::test]
async fn a_plaintext_client_gets_nothing_when_tls_is_required() {
    let authority = Authority::new();
    let (end, ()) = run(
        authority.serve(ClientCertificates::Ignored),
        async |mut raw| {
            raw.hello().await;
            for number in [opt::LIST, opt::GO, opt::INFO, opt::STRUCTURED_REPLY, 99] {
                assert_eq!(
                    raw.ends(number, &go_data("good", &[])).await,
                    rep::ERR_TLS_REQD
                );
            }
            let mut bytes = Vec::new();
            option(&mut bytes, opt::EXPORT_NAME, b"good");
            raw.send(&bytes).await;
            // The name behind the header may be unread when it hangs up.
            raw.eof().await;
        },
    )
    .await;
    assert!(matches!(
        end,
        Err(ServeError::Handshake(Close::ExportName(_)))
    ));
}

#[tokio::test]
async fn bytes_in_plain_behind_starttls_are_refused() {
    let authority = Authority::new();
    let (end, ()) = run(
        authority.serve(ClientCertificates::Ignored),
        async |mut raw| {
            raw.hello().await;
            let mut bytes = Vec::new();
            option(&mut bytes, opt::STARTTLS, b"");
            option(&mut bytes, opt::STRUCTURED_REPLY, b"");
            raw.send(&bytes).await;
            assert_eq!(raw.answers(opt::STARTTLS).await[0].0, rep::ACK);
            raw.eof().await;
        },
    )
    .await;
    assert!(matches!(end, Err(ServeError::PlaintextAfterStartTls)));
}

#[tokio::test]
async fn starttls_forgets_and_serves() {
    let authority = Authority::new();
    let connector = authority.connector(false);
    let (end, ()) = run(
        authority.serve(ClientCertificates::Ignored),
        async |mut raw| {
            raw.hello().await;
            assert_eq!(raw.ends(opt::STARTTLS, b"").await, rep::ACK);
            let name = ServerName::try_from("localhost").unwrap();
            let mut raw = Raw(connector.connect(name, raw.0).await.unwrap());
            let meta = meta_context_data("good", &["base:allocation"]);
            assert_eq!(
                raw.ends(opt::SET_META_CONTEXT, &meta).await,
                rep::ERR_INVALID
            );
            assert_eq!(raw.ends(opt::STARTTLS, b"").await, rep::ERR_INVALID);
            assert_eq!(raw.ends(opt::GO, &go_data("good", &[])).await, rep::ACK);
            raw.request(cmd::WRITE, 0, 0, 300_000).await;
            raw.send(&vec![3; 300_000]).await;
            assert_eq!(raw.simple().await, 0);
            raw.request(cmd::READ, 0, 1, 300_000).await;
            assert_eq!(raw.simple().await, 0);
            assert_eq!(raw.take(299_999).await, [3; 299_999]);
            raw.take(1).await;
            raw.request(cmd::DISC, 0, 0, 0).await;
            raw.eof().await;
        },
    )
    .await;
    assert_eq!(end.unwrap().end, End::Disconnected);
}

#[tokio::test]
async fn client_certificates_are_demanded_and_their_names_told() {
    let authority = Authority::new();
    let connector = authority.connector(true);
    let (_, ()) = run(
        authority.serve(ClientCertificates::Required),
        async |mut raw| {
            raw.hello().await;
            assert_eq!(raw.ends(opt::STARTTLS, b"").await, rep::ACK);
            let name = ServerName::try_from("localhost").unwrap();
            let mut raw = Raw(connector.connect(name, raw.0).await.unwrap());
            let told = raw.option(opt::GO, &go_data("names", &[])).await;
            let names = String::from_utf8(told[0].1.clone()).unwrap();
            for expected in ["CN=the client", "agent7.example", "client@x"] {
                assert!(names.contains(expected), "{names}");
            }
        },
    )
    .await;
    refused(&authority, false).await;
    let list = authority.dir.path().join("revoked.pem");
    std::fs::copy(list, authority.dir.path().join("ca-crl.pem")).unwrap();
    refused(&authority, true).await;
}

/// A client without a certificate, or with a revoked one, gets no further than TLS.
async fn refused(authority: &Authority, certificate: bool) {
    let connector = authority.connector(certificate);
    let (end, ()) = run(
        authority.serve(ClientCertificates::Required),
        async |mut raw| {
            raw.hello().await;
            assert_eq!(raw.ends(opt::STARTTLS, b"").await, rep::ACK);
            let name = ServerName::try_from("localhost").unwrap();
            // In TLS 1.3 the client learns of it only with its first read.
            if let Ok(mut stream) = connector.connect(name, raw.0).await {
                assert!(stream.read_u8().await.is_err());
            }
        },
    )
    .await;
    assert!(matches!(end, Err(ServeError::Tls(_))));
}

#[test]
fn a_missing_or_foreign_key_is_told_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let error = server_config(dir.path(), ClientCertificates::Ignored)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("server-cert.pem") && error.contains("tls init"),
        "{error}"
    );
    let (one, two) = (Authority::new(), Authority::new());
    std::fs::copy(
        two.dir.path().join("server-key.pem"),
        one.dir.path().join("server-key.pem"),
    )
    .unwrap();
    let error = server_config(one.dir.path(), ClientCertificates::Ignored).unwrap_err();
    assert!(
        matches!(error, crate::tls::TlsError::Mismatch { .. }),
        "{error}"
    );
}
