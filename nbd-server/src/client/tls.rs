//! TLS for the client: x509 with GnuTLS's directory of names, by rustls.
//!
//! The server's certificate is always verified, against `ca-cert.pem` alone (and `ca-crl.pem` where
//! it is there), and for the name that was asked for. A client certificate is shown where the
//! directory holds one. There is no opportunistic mode.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::ClientError;

type Result<T> = std::result::Result<T, ClientError>;

/// A PEM file longer than this is none of ours.
const MAX_PEM: u64 = 4 << 20;

/// Reads a directory of certificates.
pub(super) fn config(dir: &Path) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let ca = required(dir, "ca-cert.pem")?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&ca) {
        let certificate = certificate.map_err(|e| bad(dir, "ca-cert.pem", &e))?;
        roots
            .add(certificate)
            .map_err(|e| bad(dir, "ca-cert.pem", &e))?;
    }
    if roots.is_empty() {
        return Err(bad(dir, "ca-cert.pem", &"no certificate in it"));
    }
    let mut verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    if let Some(pem) = optional(dir, "ca-crl.pem")? {
        let crls: std::result::Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&pem).collect();
        // A list that does not cover a CA says nothing about it, as in GnuTLS.
        verifier = verifier
            .with_crls(crls.map_err(|e| bad(dir, "ca-crl.pem", &e))?)
            .allow_unknown_revocation_status();
    }
    let verifier = verifier.build().map_err(|e| bad(dir, "ca-crl.pem", &e))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::Tls(e.to_string()))?
        .with_webpki_verifier(verifier);
    let pair = (
        optional(dir, "client-cert.pem")?,
        optional(dir, "client-key.pem")?,
    );
    let config = match pair {
        (None, None) => builder.with_no_client_auth(),
        (Some(chain), Some(key)) => {
            let chain: std::result::Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(&chain).collect();
            let chain = chain.map_err(|e| bad(dir, "client-cert.pem", &e))?;
            let key =
                PrivateKeyDer::from_pem_slice(&key).map_err(|e| bad(dir, "client-key.pem", &e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| bad(dir, "client-cert.pem", &e))?
        }
        (None, Some(_)) => return Err(bad(dir, "client-cert.pem", &"missing beside its key")),
        (Some(_), None) => {
            return Err(bad(
                dir,
                "client-key.pem",
                &"missing beside its certificate",
            ));
        }
    };
    Ok(Arc::new(config))
}

/// The name that the certificate must be for.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>> {
    // A scope ("fe80::1%eth0") is a matter of this machine, never of a certificate.
    let host = host.split('%').next().unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|_| ClientError::Tls(format!("`{host}` is no name for a certificate")))
}

/// The TLS handshake.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> Result<TlsStream<S>> {
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|e| ClientError::Tls(e.to_string()))
}

fn required(dir: &Path, name: &'static str) -> Result<Vec<u8>> {
    optional(dir, name)?.ok_or_else(|| bad(dir, name, &"no such file"))
}

fn optional(dir: &Path, name: &'static str) -> Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(dir.join(name)) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(dir, name, &e)),
    };
    let mut pem = Vec::new();
    file.take(MAX_PEM)
        .read_to_end(&mut pem)
        .map_err(|e| bad(dir, name, &e))?;
    Ok(Some(pem))
}

fn bad(dir: &Path, name: &str, why: &dyn std::fmt::Display) -> ClientError {
    ClientError::Tls(format!("{}: {why}", dir.join(name).display()))
}
