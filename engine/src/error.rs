//! The engine's one error: a stable kind, the place, the cause, and a hint for the operator.

use std::fmt;

use sendense_formats::GuestRange;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, where, and because of what.
#[derive(Debug)]
pub struct Error {
    /// What went wrong, for matching.
    pub kind: ErrorKind,
    /// Where: a file, an export, a restore point, in one phrase with the values.
    pub at: String,
    /// The cause, where another layer has one.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The stable kinds of [`Error`].
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// A system call on storage failed; the export or session is poisoned where it wrote.
    Io,
    /// No space is left.
    NoSpace,
    /// An image, sidecar, manifest or checksum file is damaged.
    Damaged,
    /// An image uses what we refuse by name.
    Unsupported,
    /// Another process or session holds it.
    Locked,
    /// It is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// The request cannot be served as given.
    Invalid,
    /// The call does not fit the state: sealed, frozen, cancelled.
    WrongState,
    /// The export failed before: it answers nothing but this.
    Poisoned,
    /// The base change token is not the parent's resulting token.
    BaseTokenMismatch,
    /// There is no restore point of this disk to build on.
    NoParent,
    /// Storage failed in mid-commit: whether it took is known after the next start's recovery.
    InDoubt,
    /// Disk number and device key do not belong together.
    WrongDisk,
    /// Not all of the disk, or of the declared list, was sent. Holds the first missing ranges and
    /// how many more there are.
    IncompleteCoverage {
        /// The first missing ranges, in order.
        missing: Vec<GuestRange>,
        /// How many missing ranges are not named.
        more: u64,
    },
    /// Others depend on it. Holds their ids.
    HasDependents(Vec<String>),
    /// It is being read, mounted or exported.
    Busy,
    /// What is being read became shorter or longer meanwhile.
    SourceChanged,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, at: impl Into<String>) -> Self {
        Self {
            kind,
            at: at.into(),
            source: None,
        }
    }

    /// An error with its cause.
    pub fn with(
        kind: ErrorKind,
        at: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            at: at.into(),
            source: Some(source.into()),
        }
    }

    /// A failed system call; out-of-space, locks, devices in use, missing and existing names get
    /// their own kind.
    pub fn io(at: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                ErrorKind::NoSpace
            }
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            std::io::ErrorKind::WouldBlock => ErrorKind::Locked,
            std::io::ErrorKind::InvalidInput => ErrorKind::Invalid,
            std::io::ErrorKind::ResourceBusy => ErrorKind::Busy,
            _ => ErrorKind::Io,
        };
        Self::with(kind, at, source)
    }

    /// What the operator can do about it.
    ///
    /// The layer that knows the cause best is asked first.
    pub fn hint(&self) -> &'static str {
        if let Some(source) = &self.source {
            if let Some(e) = source.downcast_ref::<sendense_formats::Error>() {
                return e.hint();
            }
            if let Some(e) = source.downcast_ref::<sendense_nbd::client::ClientError>() {
                return e.hint();
            }
        }
        match self.kind {
            ErrorKind::Io => "look into the system log of this host for failing storage",
            ErrorKind::NoSpace => "free space in the repository, then start the backup again",
            ErrorKind::Damaged => "run `sendense-ctl backup verify`; restore from another point",
            ErrorKind::Unsupported => "convert it with the tool that made it",
            ErrorKind::Locked => "another process has it open: end that one, or wait",
            ErrorKind::NotFound => "check the name; `sendense-ctl backup list` shows what is there",
            ErrorKind::Exists => "choose another name; nothing is overwritten unasked",
            ErrorKind::Invalid => "correct the request",
            ErrorKind::WrongState => "look at the job's state with `sendense-ctl job show`",
            ErrorKind::Poisoned => "the backup failed: cancel it and start again",
            ErrorKind::BaseTokenMismatch => {
                "run a full backup, or start with allow_full to get one when needed"
            }
            ErrorKind::NoParent => {
                "run a full backup first, or start with allow_full to get one when needed"
            }
            ErrorKind::InDoubt => {
                "mend the storage, then restart the daemon: its recovery looks at what is there"
            }
            ErrorKind::WrongDisk => "a new disk gets a new number: register it, then start again",
            ErrorKind::IncompleteCoverage { .. } => "send the named ranges, then complete again",
            ErrorKind::HasDependents(_) => "delete those first, or pass with_dependents",
            ErrorKind::Busy => "end the exports and mounts that use it first",
            ErrorKind::SourceChanged => {
                "read from a snapshot, or when nobody resizes the source; then start again"
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => f.write_str(&self.at),
            Some(source) if self.at.is_empty() => write!(f, "{source}"),
            Some(source) => write!(f, "{}: {source}", self.at),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

impl From<sendense_formats::Error> for Error {
    fn from(e: sendense_formats::Error) -> Self {
        let kind = match e.kind {
            sendense_formats::ErrorKind::Unsupported | sendense_formats::ErrorKind::Denied => {
                ErrorKind::Unsupported
            }
            sendense_formats::ErrorKind::OutOfRange | sendense_formats::ErrorKind::BadExtents => {
                ErrorKind::Invalid
            }
            sendense_formats::ErrorKind::WrongState => ErrorKind::WrongState,
            _ => ErrorKind::Damaged,
        };
        // Whoever knows the file's name puts it there.
        Self::with(kind, "", e)
    }
}
