//! `sendensed tls init`: a certificate authority of one's own, with a server and a client
//! certificate, in the directory layout that GnuTLS's users (QEMU, libnbd, nbdkit) and our own NBD
//! server share.
//!
//! ```text
//! ca-cert.pem  ca-key.pem  server-cert.pem  server-key.pem  client-cert.pem  client-key.pem
//! ```
//! Keys are created with mode 0600. Nothing that exists is overwritten: a lost CA key would lock
//! out every client that trusts it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// How long certificates are valid.
const YEARS: i16 = 10;

/// Why no certificates were made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name cannot stand in a certificate.
    #[error("{name:?} is no DNS name or IP address: {source}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The certificates could not be made.
    #[error("the certificates cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// A file is there already.
    #[error("{0} exists already: choose an empty directory, or move the old certificates away")]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One file to be written.
struct Pem {
    name: &'static str,
    text: String,
    secret: bool,
}

/// Makes the six files in `dir`, which is created (mode 0700) where it is missing. The server's
/// certificate is good for `names` (DNS names and IP addresses) and for loopback. Returns what was
/// written.
///
/// # Errors
/// Where a name cannot be used, or one of the files exists; then nothing is written.
pub fn init(dir: &Path, names: &[String]) -> Result<Vec<PathBuf>, PkiError> {
    let files = make(names)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| PkiError::Write { path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(at(dir))?;
    if let Some(old) = files.iter().map(|f| dir.join(f.name)).find(|p| p.exists()) {
        return Err(PkiError::Exists(old));
    }
    let mut written = Vec::new();
    for file in files {
        let path = dir.join(file.name);
        let mode = if file.secret { 0o600 } else { 0o644 };
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(at(&path))?;
        out.write_all(file.text.as_bytes())
            .and_then(|()| out.sync_all())
            .map_err(at(&path))?;
        written.push(path);
    }
    Ok(written)
}

fn make(names: &[String]) -> Result<[Pem; 6], PkiError> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params(&[], "Sendense CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?.pem();
    let ca_key_pem = ca_key.serialize_pem();
    let issuer = Issuer::new(ca, ca_key);

    let mut all: Vec<String> = names.to_vec();
    for name in ["localhost", "127.0.0.1", "::1"] {
        if !all.iter().any(|n| n == name) {
            all.push(name.to_owned());
        }
    }
    let common = names.first().map_or("localhost", String::as_str);
    let (server_cert, server_key) = signed(
        params(&all, common)?,
        ExtendedKeyUsagePurpose::ServerAuth,
        &issuer,
    )?;
    let (client_cert, client_key) = signed(
        params(&[], "Sendense client")?,
        ExtendedKeyUsagePurpose::ClientAuth,
        &issuer,
    )?;
    let public = |name, text| Pem {
        name,
        text,
        secret: false,
    };
    let secret = |name, text| Pem {
        name,
        text,
        secret: true,
    };
    Ok([
        secret("ca-key.pem", ca_key_pem),
        public("ca-cert.pem", ca_cert),
        secret("server-key.pem", server_key),
        public("server-cert.pem", server_cert),
        secret("client-key.pem", client_key),
        public("client-cert.pem", client_cert),
    ])
}

/// Valid from yesterday (clocks differ) on.
fn params(names: &[String], common: &str) -> Result<CertificateParams, PkiError> {
    for name in names {
        // One by one, so that the error names the one that is wrong.
        CertificateParams::new(vec![name.clone()]).map_err(|source| PkiError::Name {
            name: name.clone(),
            source,
        })?;
    }
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, common);
    let yesterday = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date()
        .yesterday();
    if let Ok(day) = yesterday {
        let ymd = |year: i16| {
            // The 28th exists in every month of every year.
            date_time_ymd(
                year.into(),
                day.month().unsigned_abs(),
                day.day().min(28).unsigned_abs(),
            )
        };
        params.not_before = ymd(day.year());
        params.not_after = ymd(day.year() + YEARS);
    }
    Ok(params)
}

fn signed(
    mut params: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(String, String), PkiError> {
    params.use_authority_key_identifier_extension = true;
    // QEMU asks for key encipherment too, even where the key cannot be used for it.
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    Ok((cert.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_nbd_server_takes_what_is_made_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        let written = init(&pki, &["backup.example".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        assert_eq!(written.len(), 6);
        for path in written {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let secret = path.to_string_lossy().ends_with("-key.pem");
            assert_eq!(
                mode,
                if secret { 0o600 } else { 0o644 },
                "{}",
                path.display()
            );
        }
        sendense_nbd::tls::server_config(&pki, sendense_nbd::tls::ClientCertificates::Required)
            .unwrap();
    }

    #[test]
    fn nothing_is_overwritten_and_bad_names_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("server-cert.pem");
        std::fs::write(&kept, "mine").unwrap();
        assert!(matches!(init(dir.path(), &[]), Err(PkiError::Exists(p)) if p == kept));
        assert_eq!(std::fs::read(&kept).unwrap(), b"mine");
        assert!(!dir.path().join("ca-key.pem").exists());
        let bad = init(&dir.path().join("x"), &["not a name\u{1F600}".to_owned()]).unwrap_err();
        assert!(bad.to_string().contains("not a name"), "{bad}");
    }
}
