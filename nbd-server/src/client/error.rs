//! Why a call or a connection failed.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::NbdError;
use crate::uri::UriError;

/// A failed call or connection. Cloned to every call that the loss of a connection ends.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The socket failed, or the server closed it.
    #[error("the connection to the NBD server failed: {0}")]
    Io(#[source] Arc<io::Error>),
    /// No progress within the time allowed.
    #[error("the NBD server did not answer in time ({0})")]
    Timeout(&'static str),
    /// The server sent what the protocol forbids; the connection is closed.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(Cow<'static, str>),
    /// The server does not give the export.
    #[error("the NBD server refused: {refusal}{}", Said(.message))]
    Refused {
        /// Its reason.
        refusal: Refusal,
        /// Its own words; may be empty.
        message: String,
    },
    /// TLS could not be set up, or the certificate does not hold.
    #[error("TLS: {0}")]
    Tls(String),
    /// The URI cannot be used.
    #[error("the NBD URI cannot be used: {0}")]
    Uri(#[from] UriError),
    /// The server answered one request with an error; the connection lives on.
    #[error("{command} at byte {at} failed on the server: {error}{}", Said(.message))]
    Remote {
        /// Which request.
        command: &'static str,
        /// Where.
        at: u64,
        /// The server's errno.
        error: NbdError,
        /// Its own words; may be empty.
        message: String,
    },
    /// The request cannot be sent to this export; nothing was sent.
    #[error("{command} at byte {at} was not sent: {why}")]
    Request {
        /// Which request.
        command: &'static str,
        /// Where.
        at: u64,
        /// What is wrong with it.
        why: Cow<'static, str>,
    },
    /// The server cuts a range into more extents than are taken at once; the connection lives on.
    #[error("the map of {len} bytes from byte {at} on has more than {most} extents")]
    TooManyExtents {
        /// Where the range begins.
        at: u64,
        /// Its bytes.
        len: u64,
        /// So many are taken.
        most: usize,
    },
    /// The connection was closed by us.
    #[error("the connection to the NBD server is closed")]
    Closed,
}

/// The reasons for which a server refuses in the handshake.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No export of that name, or none that we may know of.
    Unknown,
    /// Forbidden by its policy: in use, not listed, not for us.
    Policy,
    /// It does not know the option.
    Unsupported,
    /// It wants TLS first.
    TlsRequired,
    /// It has no TLS, and we require it.
    NoTls,
    /// It is going away.
    Shutdown,
    /// Any other error, by its number.
    Other(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("it has no export of that name"),
            Self::Policy => f.write_str("its policy forbids it"),
            Self::Unsupported => f.write_str("it does not support what is asked for"),
            Self::TlsRequired => f.write_str("it requires TLS"),
            Self::NoTls => f.write_str("it offers no TLS"),
            Self::Shutdown => f.write_str("it is shutting down"),
            Self::Other(number) => write!(f, "error {number:#x}"),
        }
    }
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                "nothing listens there: check that the server runs, and its address"
            }
            Self::Io(e) if e.kind() == io::ErrorKind::NotFound => {
                "there is no such socket or host: check the URI"
            }
            Self::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                "see the server's log: with TLS it may want a client certificate"
            }
            Self::Io(_) => "check the network and the server's log, then try again",
            Self::Timeout(_) => "check the network and the server's load, or allow more time",
            Self::TooManyExtents { .. } => "map a part of the range at a time",
            Self::Protocol(_) => "this is a fault of the server: see its version and log",
            Self::Refused { refusal, .. } => match refusal {
                Refusal::Unknown => "check the export's name; LIST shows the public ones",
                Refusal::TlsRequired => "use nbds:// or nbds+unix:// with tls-certificates",
                Refusal::NoTls => "set up TLS on the server; we never go on without it",
                _ => "see the server's log for its reason",
            },
            Self::Tls(_) => "check ca-cert.pem and that the certificate names the host",
            Self::Uri(e) => e.hint(),
            Self::Remote { error, .. } => match error {
                NbdError::NoSpace => "free space on the server's storage",
                NbdError::NotPermitted => "the export is read-only",
                NbdError::Shutdown => "the export is closing: open it again later",
                _ => "see the server's log for its reason",
            },
            Self::Request { .. } => "this is a fault of the caller: see the export's limits",
            Self::Closed => "connect again",
        }
    }

    /// Whether the connection is gone with it: no other call can succeed either.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Remote { .. } | Self::Request { .. })
    }

    /// The server's errno, where it answered with one.
    pub fn errno(&self) -> Option<NbdError> {
        match self {
            Self::Remote { error, .. } => Some(*error),
            _ => None,
        }
    }

    pub(super) fn protocol(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Protocol(detail.into())
    }
}

impl From<io::Error> for ClientError {
    fn from(e: io::Error) -> Self {
        Self::Io(Arc::new(e))
    }
}

/// A peer's words behind a colon, if any, without what could steer a terminal.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() {
            write!(f, ": {}", self.0)?;
        }
        Ok(())
    }
}

/// A peer's words, shortened and without what could steer a terminal.
pub(super) fn peer_text(bytes: &[u8]) -> String {
    const MAX_CHARS: usize = 512;
    String::from_utf8_lossy(bytes)
        .chars()
        .take(MAX_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
