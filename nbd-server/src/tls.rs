//! TLS of a server: rustls with aws-lc-rs, files named as GnuTLS programs name them.
//!
//! TLS 1.2 and newer, x509 only (rustls has no external PSK). The names in a client's certificate
//! become [`Peer::certificate_names`](crate::Peer::certificate_names): a valid certificate alone
//! is not a right to any export.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The authority that client certificates must come from.
pub const CA_CERT: &str = "ca-cert.pem";
/// Revoked certificates; optional.
pub const CA_CRL: &str = "ca-crl.pem";
/// The server's certificate and what links it to its authority.
pub const SERVER_CERT: &str = "server-cert.pem";
/// The server's key.
pub const SERVER_KEY: &str = "server-key.pem";

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Not asked for.
    #[default]
    Ignored,
    /// One that [`CA_CERT`] signed and [`CA_CRL`] does not revoke.
    Required,
}

/// Why a server's TLS cannot be set up.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable, or not what it should be.
    #[error("{}: {what}; put ca-cert.pem, server-cert.pem and server-key.pem there, or make them with `sendensed tls init`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The files do not go together.
    #[error("{}: {source}; the key must belong to the certificate", directory.display())]
    Mismatch {
        /// Where they are.
        directory: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// Reads a directory of PEM files and makes a server configuration of it.
pub fn server_config(
    directory: &Path,
    clients: ClientCertificates,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mismatch = |source| TlsError::Mismatch {
        directory: directory.to_owned(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?;
    let builder = match clients {
        ClientCertificates::Ignored => builder.with_no_client_auth(),
        ClientCertificates::Required => {
            let path = directory.join(CA_CERT);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&path)? {
                roots
                    .add(certificate)
                    .map_err(|error| file(&path, &error))?;
            }
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let path = directory.join(CA_CRL);
            if path.exists() {
                let lists = CertificateRevocationListDer::pem_file_iter(&path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| file(&path, &error))?;
                verifier = verifier.with_crls(lists);
            }
            let verifier = verifier.build().map_err(|error| file(&path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates(&directory.join(SERVER_CERT))?;
    let path = directory.join(SERVER_KEY);
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| file(&path, &error))?;
    builder
        .with_single_cert(chain, key)
        .map(Arc::new)
        .map_err(mismatch)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| file(path, &error))?;
    if found.is_empty() {
        return Err(file(path, &io::Error::other("no certificate in it")));
    }
    Ok(found)
}

fn file(path: &Path, what: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        what: what.to_string(),
    }
}

/// The names in the certificate that the client showed; it was verified by then.
pub(crate) fn names_of(connection: &ServerConnection) -> Vec<String> {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    certificate
        .map(|der| certificate_names(der.as_ref()))
        .unwrap_or_default()
}

/// The subject and the DNS, URI and e-mail names of a DER certificate; empty where it is none.
pub fn certificate_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let mut names = vec![certificate.subject().to_string()];
    let common = certificate
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok());
    names.extend(common.map(str::to_owned));
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name)
            | GeneralName::URI(name)
            | GeneralName::RFC822Name(name) = name
            {
                names.push((*name).to_owned());
            }
        }
    }
    names
}
