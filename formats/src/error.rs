//! The crate's one error: what went wrong, where in the image, and what to do about it.

use std::fmt;

use crate::range::HostOffset;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refused or damaged image, list or request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What went wrong, for matching.
    pub kind: ErrorKind,
    /// The byte of the image file at which it was found, where there is one.
    pub at: Option<HostOffset>,
    /// One sentence with the values that were found.
    pub detail: String,
}

/// The stable kinds of [`Error`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Not an image of this format: wrong magic.
    NotThisFormat,
    /// The file ends before something that it refers to.
    Truncated,
    /// A field has a value that the specification forbids.
    Malformed,
    /// A valid image that uses a feature we refuse by name.
    Unsupported,
    /// A size, count or depth beyond our stated limits.
    TooLarge,
    /// An implicit reference (backing file, data file) that the policy denies.
    Denied,
    /// Compressed data that does not decode to exactly one cluster.
    BadCompression,
    /// A request outside of the disk, or not aligned as required.
    OutOfRange,
    /// A changed-extent list that is not an ordered, complete, gap-free answer.
    BadExtents,
    /// The call does not fit the state: an already sealed writer, a plan of another writer.
    WrongState,
}

impl Error {
    /// An error without a place in a file.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            at: None,
            detail: detail.into(),
        }
    }

    /// An error found at a byte of the image file.
    pub fn at(kind: ErrorKind, at: HostOffset, detail: impl Into<String>) -> Self {
        Self {
            kind,
            at: Some(at),
            detail: detail.into(),
        }
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.kind {
            ErrorKind::NotThisFormat => {
                "name the right format, or check that this is the right file"
            }
            ErrorKind::Truncated => "the file is incomplete: copy it again from its source",
            ErrorKind::Malformed => "the image is damaged: run `sendense-image check` on it",
            ErrorKind::Unsupported => {
                "convert the image with the tool that made it, without that feature"
            }
            ErrorKind::TooLarge => {
                "the image claims more than the limits allow: check where it comes from"
            }
            ErrorKind::Denied => {
                "references in images are never followed unasked: name the chain explicitly"
            }
            ErrorKind::BadCompression => "the image is damaged: restore it from another copy",
            ErrorKind::OutOfRange => "keep the request inside of the disk and on its alignment",
            ErrorKind::BadExtents => "ask the hypervisor again, or run a full backup of this disk",
            ErrorKind::WrongState => "this is a fault of the caller: open the image again",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "{} (at byte {} of the file)", self.detail, at.get()),
            None => f.write_str(&self.detail),
        }
    }
}

impl std::error::Error for Error {}
