//! `sendensed tls init`: a CA and certificates for NBD over TLS, under the names that GnuTLS'
//! users expect.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// What is written, and whether it is a secret.
const FILES: [(&str, bool); 6] = [
    ("ca-cert.pem", false),
    ("ca-key.pem", true),
    ("server-cert.pem", false),
    ("server-key.pem", true),
    ("client-cert.pem", false),
    ("client-key.pem", true),
];

/// Makes a CA, a server certificate for these names and addresses, and a client certificate for
/// `client`, valid for `days`. Nothing that is there is overwritten.
pub fn init(dir: &Path, names: &[String], client: &str, days: u32) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
        .create(dir)
        .with_context(|| format!("{} cannot be made", dir.display()))?;
    if let Some((name, _)) = FILES.iter().find(|(name, _)| dir.join(name).exists()) {
        anyhow::bail!(
            "{} is there already: nothing is overwritten; choose another directory",
            dir.join(name).display()
        );
    }
    let ca_key = KeyPair::generate()?;
    let mut ca = params(Vec::new(), "Sendense CA", days)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let server_key = KeyPair::generate()?;
    let first = names.first().map_or("localhost", String::as_str);
    let mut server = params(names.to_vec(), first, days)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let server_cert = server.signed_by(&server_key, &issuer)?;

    let client_key = KeyPair::generate()?;
    let mut agent = params(Vec::new(), client, days)?;
    agent.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    agent.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let client_cert = agent.signed_by(&client_key, &issuer)?;

    let contents = [
        ca_cert.pem(),
        issuer.key().serialize_pem(),
        server_cert.pem(),
        server_key.serialize_pem(),
        client_cert.pem(),
        client_key.serialize_pem(),
    ];
    for ((name, secret), text) in FILES.iter().zip(contents) {
        write(&dir.join(name), *secret, &text)?;
    }
    Ok(())
}

fn params(names: Vec<String>, common: &str, days: u32) -> anyhow::Result<CertificateParams> {
    let mut params =
        CertificateParams::new(names).context("a name is neither a host nor an address")?;
    params.distinguished_name.push(DnType::CommonName, common);
    let now = std::time::SystemTime::now();
    // A clock that is a little behind must not refuse a new certificate.
    let begin = now - std::time::Duration::from_secs(24 * 3600);
    let end = now + std::time::Duration::from_secs(u64::from(days) * 24 * 3600);
    params.not_before = begin.into();
    params.not_after = end.into();
    Ok(params)
}

fn write(path: &Path, secret: bool, text: &str) -> anyhow::Result<()> {
    let at = || format!("{} cannot be written", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if secret { 0o600 } else { 0o644 })
        .open(path)
        .with_context(at)?;
    file.write_all(text.as_bytes()).with_context(at)?;
    file.sync_all().with_context(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use sendense_nbd::tls::{ClientCertificates, server_config};

    use super::*;

    #[test]
    fn what_is_made_can_be_served_and_keys_are_secret() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["backup.example.com".to_owned(), "10.0.0.7".to_owned()];
        init(dir.path(), &names, "agent-1", 365).unwrap();
        server_config(dir.path(), ClientCertificates::Required).unwrap();
        for (name, secret) in FILES {
            let mode = std::fs::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, if secret { 0o600 } else { 0o644 }, "{name}");
        }
        assert!(init(dir.path(), &names, "agent-1", 365).is_err());
    }
}
