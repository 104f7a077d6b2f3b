//! What a rule answers when it refuses: a stable code, one sentence, a hint, and what only that
//! code carries. Knows no HTTP; `crate::error` puts it on the wire.

use std::fmt;

use sendense_engine::ErrorKind;
use sendense_engine::repository::guard::Refusal;
use serde_json::{Map, Value, json};

use crate::store::StoreError;
use crate::types::Code;

/// A result of this module tree.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// A refusal or failure.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What happened, with the values.
    pub detail: String,
    /// What to do about it, where it is not the code's own.
    pub hint: Option<String>,
    /// What only this code carries.
    pub extra: Map<String, Value>,
}

impl Fault {
    /// A fault with the code's own hint.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            hint: None,
            extra: Map::new(),
        }
    }

    /// The same with a better hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with one more member.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// The same, with what it was about in front.
    #[must_use]
    pub fn about(mut self, what: impl fmt::Display) -> Self {
        self.detail = format!("{what}: {}", self.detail);
        self
    }

    /// A failed system call.
    pub fn io(at: impl Into<String>, e: std::io::Error) -> Self {
        sendense_engine::Error::io(at, e).into()
    }

    /// A value that is not acceptable.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::Invalid, detail)
    }

    /// A fault of ours.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(Code::Internal, detail)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        match &e {
            StoreError::BadCursor => Self::new(Code::BadRequest, e.to_string())
                .hint("leave the cursor out to begin with the first page"),
            StoreError::Database(sqlx::Error::PoolTimedOut) => {
                Self::new(Code::Unavailable, "the catalog is busy")
            }
            StoreError::Database(sqlx::Error::Database(d))
                if matches!(d.code().as_deref(), Some("5" | "6")) =>
            {
                Self::new(Code::Unavailable, "the catalog is busy")
            }
            StoreError::Database(sqlx::Error::Database(d)) if d.code().as_deref() == Some("13") => {
                Self::new(Code::NoSpace, "no space is left for the catalog")
            }
            _ => Self::new(Code::Internal, e.to_string()),
        }
    }
}

/// What to do where the newest point is not whole.
const NOTHING_SOUND: &str = "run a full backup, or start with allow_full to get one; \
                             `sendense-ctl backup verify` tells what else is damaged";

impl From<sendense_engine::Error> for Fault {
    fn from(e: sendense_engine::Error) -> Self {
        let code = match &e.kind {
            ErrorKind::NoSpace => Code::NoSpace,
            ErrorKind::Damaged => Code::Damaged,
            ErrorKind::Unsupported => Code::Unsupported,
            ErrorKind::Locked => Code::Locked,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Exists => Code::Exists,
            ErrorKind::Invalid => Code::Invalid,
            ErrorKind::WrongState => Code::WrongState,
            ErrorKind::BaseTokenMismatch => Code::BaseTokenMismatch,
            ErrorKind::NoParent => Code::NoParent,
            ErrorKind::WrongDisk => Code::DiskIdentity,
            ErrorKind::InDoubt => Code::InDoubt,
            ErrorKind::IncompleteCoverage { .. } => Code::IncompleteCoverage,
            ErrorKind::HasDependents(_) => Code::HasDependents,
            ErrorKind::Busy => Code::Busy,
            ErrorKind::SourceChanged => Code::Remote,
            _ => Code::Storage,
        };
        let refusal = e.source.as_ref().and_then(|s| s.downcast_ref::<Refusal>());
        let (code, hint) = match refusal {
            // Nothing broke in serving the request: what is there cannot be built on.
            Some(Refusal::DamagedParent { .. } | Refusal::UnclearHead { .. }) => {
                (Code::NoParent, NOTHING_SOUND)
            }
            _ => (code, e.hint()),
        };
        let mut fault = Self::new(code, e.to_string()).hint(hint);
        if let Some(Refusal::DamagedParent { parent, .. }) = refusal {
            fault = fault.member("parent_backup_id", parent.as_str());
        }
        if let Some(Refusal::BaseTokenMismatch {
            given,
            parent,
            parent_token,
        }) = refusal
        {
            fault = fault
                .member("base_change_id", given.as_ref().map(|t| t.as_str()))
                .member("parent_backup_id", parent.as_str())
                .member("parent_change_id", parent_token.as_str());
        }
        match &e.kind {
            ErrorKind::IncompleteCoverage { missing, more } => {
                let ranges: Vec<Value> = missing
                    .iter()
                    .map(|r| json!({"offset": r.start().get(), "length": r.len()}))
                    .collect();
                fault = fault
                    .member("missing", ranges)
                    .member("missing_more", *more);
            }
            ErrorKind::HasDependents(ids) => {
                fault = fault.member("dependents", ids.clone());
            }
            _ => {}
        }
        fault
    }
}
