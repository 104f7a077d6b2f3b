//! Bearer tokens: 256 random bits, of which the catalog holds only the hash.
//!
//! A token is found by its SHA-256, so no comparison of secrets depends on how far they agree.
//! The first token is made at the first start and written to a file that only its owner reads.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sha2::{Digest, Sha256};

use crate::service::{Fault, Result};
use crate::store::{Store, TokenRow};
use crate::types::{Code, Time};

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name, for the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    /// The daemon itself, in the audit log.
    pub fn daemon() -> Self {
        Self {
            name: "sendensed".to_owned(),
            role: Role::Admin,
        }
    }

    /// Whether URIs and host paths may be shown.
    pub const fn sees_secrets(&self) -> bool {
        matches!(self.role, Role::Admin)
    }
}

/// The SHA-256 of a secret, in hexadecimal.
pub fn hash(secret: &str) -> String {
    HEXLOWER.encode(Sha256::digest(secret.as_bytes()).as_slice())
}

/// `len` random characters of base32, in lower case: 5 bits each.
pub fn random_base32(len: usize) -> Result<String> {
    let mut bytes = vec![0; len.div_ceil(8) * 5];
    getrandom::fill(&mut bytes)
        .map_err(|e| Fault::new(Code::Internal, format!("no random numbers: {e}")))?;
    let mut text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    text.truncate(len);
    Ok(text)
}

/// Finds who a presented token belongs to.
pub async fn authenticate(store: &Store, token: &str) -> Result<Caller> {
    let refused = || Fault::new(Code::Unauthenticated, "the token is not known");
    let row = store.token(&hash(token)).await?.ok_or_else(refused)?;
    if row.expires_at.is_some_and(|t| t <= Time::now().micros()) {
        return Err(Fault::new(Code::Unauthenticated, "the token has expired"));
    }
    match row.role.as_str() {
        "admin" => Ok(Caller {
            name: row.name,
            role: Role::Admin,
        }),
        _ => Err(refused()),
    }
}

/// Makes the first token and writes it to `path`, if no token exists yet. Says whether it did.
pub async fn first_token(store: &Store, path: &Path) -> Result<bool> {
    if store.has_tokens().await? {
        return Ok(false);
    }
    let token = format!("sendense_{}", random_base32(52)?);
    // The file first: a token that nobody can read would lock everybody out.
    let failed = |e| Fault::io(format!("{} could not be written", path.display()), e);
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    writeln!(file, "{token}").map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let mut tx = store.begin_write().await?;
    tx.insert_token(&TokenRow {
        id: uuid::Uuid::new_v4().to_string(),
        name: "admin".to_owned(),
        role: "admin".to_owned(),
        hash: hash(&token),
        created_at: Time::now().micros(),
        expires_at: None,
    })
    .await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_first_token_is_made_once_and_read_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("catalog.db")).await.unwrap();
        let path = dir.path().join("admin.token");
        assert!(first_token(&store, &path).await.unwrap());
        assert!(!first_token(&store, &path).await.unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let token = std::fs::read_to_string(&path).unwrap();
        let caller = authenticate(&store, token.trim()).await.unwrap();
        assert_eq!(caller.role, Role::Admin);
        for wrong in ["", "sendense_", &token.to_uppercase()] {
            let e = authenticate(&store, wrong).await.unwrap_err();
            assert_eq!(e.code, Code::Unauthenticated);
        }
    }

    #[test]
    fn random_text_is_as_long_as_asked_and_differs() {
        for len in [1, 8, 13, 52] {
            let a = random_base32(len).unwrap();
            assert_eq!(a.len(), len);
            assert!(
                a.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            );
        }
        assert_ne!(random_base32(13).unwrap(), random_base32(13).unwrap());
    }
}
