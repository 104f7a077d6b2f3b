//! What is known of an export, and how a client wants to be connected.

use std::path::PathBuf;
use std::time::Duration;

use crate::export::BlockSize;
use crate::wire::export_flags as flag;

/// How to connect, and what a connection may take.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Metadata contexts to ask for, by full name; what the server lacks is left out, see
    /// [`RemoteInfo::contexts`].
    pub contexts: Vec<String>,
    /// Ask for 64-bit lengths.
    pub extended_headers: bool,
    /// Ask for replies in chunks, which block status needs.
    pub structured_replies: bool,
    /// The certificates' directory for `nbds`, where the URI names none.
    pub tls_certificates: Option<PathBuf>,
    /// For the socket, TLS and the handshake together.
    pub connect_timeout: Duration,
    /// For a server that owes a reply and moves nothing: neither a finished reply nor 64 KiB.
    pub reply_timeout: Duration,
    /// The most requests in flight on one connection.
    pub max_requests: usize,
    /// The most payload bytes in flight on one connection, requests and replies together.
    pub max_bytes: usize,
    /// The longest payload of one request; a smaller limit of the server wins.
    pub max_payload: u32,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            contexts: Vec::new(),
            extended_headers: true,
            structured_replies: true,
            tls_certificates: None,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(120),
            max_requests: 64,
            max_bytes: 64 << 20,
            max_payload: 32 << 20,
        }
    }
}

impl ConnectOptions {
    /// The default, with `base:allocation` asked for.
    pub fn with_allocation() -> Self {
        Self {
            contexts: vec![crate::wire::BASE_ALLOCATION.to_owned()],
            ..Self::default()
        }
    }
}

/// What the server told about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteInfo {
    /// The size in bytes.
    pub size: u64,
    /// The transmission flags as sent, see [`crate::wire::export_flags`].
    pub flags: u16,
    /// The sizes; defaults (1, 4096, 32 MiB) where the server tells none.
    pub block_size: BlockSize,
    /// The export's own name, where it is another than the one asked for.
    pub canonical_name: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// The contexts that [`block_status`](super::Client::block_status) can be asked for; of
    /// [`describe`](super::Client::describe), those that the export has.
    pub contexts: Vec<String>,
    /// Replies come in chunks.
    pub structured_replies: bool,
    /// Lengths are 64-bit.
    pub extended_headers: bool,
    /// TLS is in force.
    pub tls: bool,
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $flag:ident;)*) => {
        $($(#[$doc])*
        pub const fn $name(&self) -> bool {
            self.flags & flag::$flag != 0
        })*
    };
}

impl RemoteInfo {
    flags! {
        /// Writes are refused.
        read_only = READ_ONLY;
        /// FLUSH is served.
        can_flush = SEND_FLUSH;
        /// FUA is served.
        can_fua = SEND_FUA;
        /// TRIM is served.
        can_trim = SEND_TRIM;
        /// WRITE_ZEROES is served.
        can_zero = SEND_WRITE_ZEROES;
        /// WRITE_ZEROES can be told to fail rather than be slow.
        can_fast_zero = SEND_FAST_ZERO;
        /// Several connections see one disk, and a FLUSH on one covers all.
        multi_conn = CAN_MULTI_CONN;
        /// The medium spins.
        rotational = ROTATIONAL;
    }

    /// Whether block status can be asked for a context.
    pub fn has_context(&self, name: &str) -> bool {
        self.contexts.iter().any(|c| c == name)
    }

    pub(super) const fn empty() -> Self {
        Self {
            size: 0,
            flags: 0,
            block_size: BlockSize {
                minimum: 1,
                preferred: 4096,
                maximum: 32 << 20,
            },
            canonical_name: None,
            description: None,
            contexts: Vec::new(),
            structured_replies: false,
            extended_headers: false,
            tls: false,
        }
    }
}
