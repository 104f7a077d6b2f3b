//! What an image may make us do: limits, and the default-deny gate for names inside of it.
//!
//! A backing file name is text from a stranger. Opening an image never follows it; whoever wants
//! to follow one asks [`OpenPolicy::backing_of`] first, and gets [`ErrorKind::Denied`] unless the
//! policy says otherwise. External data files are refused at any policy.

use super::{Backing, Header, layout};
use crate::{Error, ErrorKind, Result};

/// The limits of opening, and the rule for implicit references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPolicy {
    /// The largest L1 table in bytes.
    pub max_l1_bytes: u64,
    /// The largest refcount table in bytes.
    pub max_refcount_table_bytes: u64,
    /// The largest virtual disk in bytes.
    pub max_virtual_size: u64,
    /// Whether a backing file name may be followed.
    pub backing: BackingRule,
}

/// Whether the backing file that an image names may be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackingRule {
    /// Never: a chain is named by its owner, layer by layer.
    #[default]
    Deny,
    /// Where [`safe_backing_name`] agrees. The caller opens it beneath the image's directory.
    SafeRelative,
}

impl Default for OpenPolicy {
    fn default() -> Self {
        Self {
            max_l1_bytes: layout::MAX_L1_BYTES,
            max_refcount_table_bytes: layout::MAX_REFCOUNT_TABLE_BYTES,
            max_virtual_size: layout::MAX_VIRTUAL_SIZE,
            backing: BackingRule::Deny,
        }
    }
}

impl OpenPolicy {
    /// The backing file to follow: none, or an error where the policy or the name forbids it.
    pub fn backing_of<'a>(&self, header: &'a Header) -> Result<Option<&'a Backing>> {
        let Some(backing) = &header.backing else {
            return Ok(None);
        };
        match self.backing {
            BackingRule::Deny => Err(Error::new(
                ErrorKind::Denied,
                format!("the image names a backing file, {:?}", backing.name),
            )),
            BackingRule::SafeRelative => {
                safe_backing_name(&backing.name)?;
                Ok(Some(backing))
            }
        }
    }
}

/// Accepts a relative path that stays beneath the image's directory, and nothing else.
///
/// No absolute path, no `..`, no protocol (`nbd:`, `json:`, `file:`, anything with a colon before
/// the first slash, as QEMU reads it), no control characters, at most 1023 bytes.
pub fn safe_backing_name(name: &str) -> Result<()> {
    let because = if name.is_empty() {
        "is empty"
    } else if name.len() > layout::MAX_BACKING_NAME {
        "is longer than 1023 bytes"
    } else if name.chars().any(char::is_control) {
        "holds a control character"
    } else if name.starts_with('/') {
        "is an absolute path"
    } else if name.split('/').next().is_some_and(|s| s.contains(':')) {
        "has a protocol prefix"
    } else if name.split('/').any(|part| part == "..") {
        "leaves the directory of the image"
    } else if name.ends_with('/') {
        "is a directory"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(80).collect();
    Err(Error::new(
        ErrorKind::Denied,
        format!("the backing file name {shown:?} {because}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beneath_the_directory_pass() {
        for name in [
            "full.qcow2",
            "./full.qcow2",
            "a/b:c.qcow2",
            "..x/y",
            "disk 0",
        ] {
            safe_backing_name(name).unwrap();
        }
    }

    #[test]
    fn everything_else_is_denied() {
        let long = "x".repeat(1024);
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/..",
            "json:{}",
            "nbd:h:1",
            "nbd+unix:///x",
            "file:x",
            "a\0b",
            "a\nb",
            "dir/",
            &long,
        ] {
            let error = safe_backing_name(name).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied, "{name}");
            assert!(error.detail.len() < 200);
        }
    }
}
