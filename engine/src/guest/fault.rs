//! What a reader answers where it cannot answer.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A result of a guest file-system reader.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// The stable kinds of [`Fault`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultKind {
    /// There is no such name, node or stream.
    NotFound,
    /// It is not a directory, or not a file, or not a link, whichever was needed.
    WrongType,
    /// The file system contradicts itself, or points outside of its volume.
    Damaged,
    /// A feature that is not read yet, by name.
    Unsupported,
    /// The journal could not be replayed, and a stale view was not accepted.
    Stale,
    /// A limit on memory, depth, counts or time was reached.
    Limit,
    /// The request itself is wrong.
    Invalid,
    /// The restore point's blocks could not be read.
    Io,
    /// The reading process ended or did not answer.
    WorkerGone,
}

/// Why a reader cannot answer: a kind to match on, and one sentence with the values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// What went wrong, for matching.
    pub kind: FaultKind,
    /// What exactly, and where.
    pub what: Cow<'static, str>,
}

impl Fault {
    /// A fault of a kind.
    pub fn new(kind: FaultKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            what: what.into(),
        }
    }

    /// The file system contradicts itself.
    pub fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Damaged, what)
    }

    /// A feature that is not read yet.
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FaultKind::Unsupported, what)
    }

    /// Names the place in front of what is said.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what).into();
        self
    }
}

impl From<crate::Error> for Fault {
    fn from(error: crate::Error) -> Self {
        let kind = match error.kind {
            crate::ErrorKind::Damaged => FaultKind::Damaged,
            crate::ErrorKind::Unsupported => FaultKind::Unsupported,
            crate::ErrorKind::NotFound => FaultKind::NotFound,
            crate::ErrorKind::Invalid => FaultKind::Invalid,
            _ => FaultKind::Io,
        };
        Self::new(kind, error.to_string())
    }
}
