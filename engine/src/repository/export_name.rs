//! Names of NBD exports for backups:
//! `backup-{context}-disk{N}-{full|incr|diff}-{YYYYMMDDThhmmss}-{secret}`, at most 63 bytes.
//!
//! NBD has no login, so the name is the right to write: its last part is a secret of 65 random
//! bits. It never reaches a log: `Debug` and [`ExportName::label`] leave it out.

use std::fmt;

use jiff::Timestamp;

use super::ids::{BackupKind, ContextId, DiskNumber};
use super::text_id::{base32, hash_base32};
use crate::{Error, ErrorKind, Result};

/// The longest name in bytes; some movers cut what is longer.
const MAX: usize = 63;
/// The longest context that is written out: what 63 bytes leave beside a three-digit disk number.
const CONTEXT_MAX: usize = 13;
/// Base32 characters of the secret.
const SECRET_CHARS: usize = 13;

/// The random part of an export's name.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportSecret(String);

impl ExportSecret {
    /// A new one from the system's random source.
    pub fn generate() -> Result<Self> {
        let mut bytes = [0; 9];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::with(ErrorKind::Io, "the system's random source failed", e))?;
        Ok(Self::from_bytes(bytes))
    }

    /// The secret that 65 of these 72 bits give.
    pub fn from_bytes(bytes: [u8; 9]) -> Self {
        Self(base32(&bytes, SECRET_CHARS))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ExportSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExportSecret(..)")
    }
}

/// The name of a backup's export for one disk.
#[derive(Clone, PartialEq, Eq)]
pub struct ExportName {
    label: String,
    secret: ExportSecret,
}

impl ExportName {
    /// Makes the name. A context that is too long (or that could be mistaken for the parts behind
    /// it) is shortened with a hash and a `~`, which no context holds: two contexts never meet.
    pub fn new(
        context: &ContextId,
        disk: DiskNumber,
        kind: BackupKind,
        at: Timestamp,
        secret: ExportSecret,
    ) -> Self {
        let full = context.as_str();
        let context = if full.len() <= CONTEXT_MAX && !full.contains("-disk") {
            full.to_owned()
        } else {
            let start: String = full.chars().take(2).collect();
            format!("{start}~{}", hash_base32(full, 10))
        };
        let label = format!(
            "backup-{context}-disk{disk}-{}-{}",
            kind.short(),
            at.strftime("%Y%m%dT%H%M%S")
        );
        debug_assert!(label.len() + 1 + SECRET_CHARS <= MAX);
        Self { label, secret }
    }

    /// The whole name, secret included: for those who may write.
    pub fn reveal(&self) -> String {
        format!("{}-{}", self.label, self.secret.0)
    }

    /// The name without its secret: for logs and for those who may not write.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl fmt::Debug for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportName({}-..)", self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(context: &str, disk: u32, secret: u8) -> ExportName {
        ExportName::new(
            &ContextId::parse(context).unwrap(),
            DiskNumber::new(disk).unwrap(),
            BackupKind::Incremental,
            "2025-10-04T12:00:00Z".parse().unwrap(),
            ExportSecret::from_bytes([secret; 9]),
        )
    }

    #[test]
    fn it_reads_as_the_product_says() {
        assert_eq!(
            name("ctx-web", 0, 0).reveal(),
            "backup-ctx-web-disk0-incr-20251004T120000-aaaaaaaaaaaaa"
        );
    }

    #[test]
    fn the_secret_stays_out_of_logs() {
        let shown = format!("{:?} {}", name("c", 0, 0), name("c", 0, 0).label());
        assert!(!shown.contains("aaaa"), "{shown}");
        assert_ne!(
            ExportSecret::generate().unwrap(),
            ExportSecret::generate().unwrap()
        );
    }

    #[test]
    fn a_context_cannot_forge_a_disk_number() {
        let forged = name("a-disk9-full", 0, 0);
        assert!(!forged.reveal().contains("disk9"), "{forged:?}");
    }

    proptest! {
        #[test]
        fn names_fit_and_contexts_never_meet(
            a in "[a-zA-Z0-9._-]{1,128}", b in "[a-zA-Z0-9._-]{1,128}", disk in 0u32..1000,
        ) {
            let (x, y) = (name(&a, disk, 1), name(&b, disk, 1));
            prop_assert!(x.reveal().len() <= MAX, "{:?}", x);
            prop_assert_eq!(a == b, x == y);
        }
    }
}
