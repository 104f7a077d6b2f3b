//! The contract between the protocol and whatever holds the bytes.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::buffer::Buffer;
use crate::error::NbdError;

/// The result of an operation that was lent a buffer: the buffer always comes back.
#[derive(Debug)]
pub struct Done<B> {
    /// What the operation answers.
    pub result: Result<(), NbdError>,
    /// The buffer, given back.
    pub buf: B,
}

/// The sizes that INFO_BLOCK_SIZE tells (protocol, "Size constraints").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    /// The smallest unit; 1 means any alignment. A power of two.
    pub minimum: u32,
    /// The unit that is handled best; a power of two. Long WRITE payloads are cut on its multiples.
    pub preferred: u32,
    /// The longest payload that is advertised. The session accepts up to 64 MiB all the same.
    pub maximum: u32,
}

impl Default for BlockSize {
    fn default() -> Self {
        Self {
            minimum: 1,
            preferred: 65536,
            maximum: 32 << 20,
        }
    }
}

/// What a client is told about an export. Does not change while the export is open.
#[derive(Debug, Clone)]
pub struct ExportInfo {
    /// The disk's size in bytes; any value, no multiple of anything.
    pub size: u64,
    /// Refuse WRITE, WRITE_ZEROES and TRIM with EPERM, and tell so.
    pub read_only: bool,
    /// FLUSH and FUA are served.
    pub can_flush: bool,
    /// TRIM is served.
    pub can_trim: bool,
    /// WRITE_ZEROES (with NO_HOLE) is served.
    pub can_zero: bool,
    /// FAST_ZERO is honoured.
    pub can_fast_zero: bool,
    /// FLUSH on one connection covers what was replied on all.
    pub multi_conn: bool,
    /// Tell that the medium spins.
    pub rotational: bool,
    /// Sizes.
    pub block_size: BlockSize,
    /// A canonical name that differs from the one asked for, for INFO_NAME.
    pub canonical_name: Option<String>,
    /// Free text for people, for INFO_DESCRIPTION; at most 4096 bytes.
    pub description: Option<String>,
    /// Metadata contexts beside `base:allocation` (which every export has), by full name.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// A writable export that serves everything, of `size` bytes.
    pub fn writable(size: u64) -> Self {
        Self {
            size,
            read_only: false,
            can_flush: true,
            can_trim: true,
            can_zero: true,
            can_fast_zero: true,
            multi_conn: true,
            rotational: false,
            block_size: BlockSize::default(),
            canonical_name: None,
            description: None,
            contexts: Vec::new(),
        }
    }

    /// A read-only export of `size` bytes.
    pub fn read_only(size: u64) -> Self {
        Self {
            read_only: true,
            can_trim: false,
            can_zero: false,
            can_fast_zero: false,
            ..Self::writable(size)
        }
    }
}

/// Flags of WRITE_ZEROES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// The range must stay allocated (NO_HOLE). Thin storage may answer with plain success.
    pub no_hole: bool,
    /// Answer [`NbdError::NotSupported`] at once rather than be slower than writing (FAST_ZERO).
    pub fast: bool,
}

/// One extent of BLOCK_STATUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes, never 0.
    pub len: u64,
    /// The context's flags; for `base:allocation` bit 0 is HOLE and bit 1 is ZERO.
    pub flags: u32,
}

/// One open export as seen from one connection.
///
/// The session has checked every range against [`ExportInfo::size`] and every flag against what
/// was told, so `at + len` is inside of the disk and `len` is not 0. Operations run concurrently;
/// each buffer is owned by the operation and handed back. A long WRITE arrives as several calls,
/// cut on multiples of [`BlockSize::preferred`]; FUA arrives as a [`flush`](Self::flush) after the
/// last of them and before the reply. A dropped future may still take effect.
#[expect(
    async_fn_in_trait,
    reason = "connections stay on their thread: futures are !Send by design"
)]
pub trait Export: 'static {
    /// The buffers that it takes.
    type Buf: Buffer;

    /// What clients are told.
    fn info(&self) -> &ExportInfo;

    /// Fills the buffer with the bytes at `at`.
    async fn read(&self, at: u64, buf: Self::Buf) -> Done<Self::Buf>;

    /// Writes the buffer's bytes at `at`.
    async fn write(&self, at: u64, buf: Self::Buf) -> Done<Self::Buf>;

    /// Makes the range read as zeroes. Any length up to the whole disk.
    async fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<(), NbdError>;

    /// The range's content is no longer needed. Any length up to the whole disk.
    async fn trim(&self, at: u64, len: u64) -> Result<(), NbdError>;

    /// Puts on stable storage what was replied before, on any connection.
    async fn flush(&self) -> Result<(), NbdError>;

    /// A request to change `at .. at + len` (WRITE, WRITE_ZEROES, TRIM) ends without having come to
    /// the methods above: the session refused it, or its payload was cut off. Of a WRITE whose
    /// first parts were handed over, the rest is told. What a client is answered for a request that
    /// did come is the export's own to know.
    ///
    /// Not called on a read-only export. Nothing about the range was checked: it may leave the disk, and `at + len` may overflow;
    /// `len` is not 0. Called at most once for each byte of a request, also while the connection is
    /// torn down, so it must neither block nor panic. An export that keeps no account of what it
    /// was sent ignores it.
    fn refused(&self, at: u64, len: u64) {
        let _ = (at, len);
    }

    /// The extents from `at` on, at least one, at most `max_extents`, together at most `len` bytes
    /// (the last may be cut there). `context` is 0 for `base:allocation`, else 1 + the index into
    /// [`ExportInfo::contexts`].
    async fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<StatusExtent>, NbdError>;
}

/// Who asks for an export.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The socket address; `None` on a unix socket.
    pub address: Option<SocketAddr>,
    /// Whether TLS is in force.
    pub tls: bool,
    /// The verified client certificate's subject and DNS, URI and e-mail names, if one was shown.
    pub certificate_names: Vec<String>,
}

/// Why an export is not given. The reason goes into the reply and into the log.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No export of that name (ERR_UNKNOWN). Also for names that the peer may not know.
    Unknown,
    /// It exists but is not given to this peer or not now (ERR_POLICY), with the reason.
    Policy(Cow<'static, str>),
    /// The server, or this export, is going away (ERR_SHUTDOWN), with the reason.
    Shutdown(Cow<'static, str>),
}

/// One line of LIST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The export's name.
    pub name: String,
    /// Free text for people.
    pub description: String,
}

/// Where exports come from.
#[expect(
    async_fn_in_trait,
    reason = "connections stay on their thread: futures are !Send by design"
)]
pub trait Exports {
    /// What is opened.
    type Export: Export;

    /// Describes an export without opening it for use (INFO). Refuses exactly as `open` would.
    async fn info(&self, name: &str, peer: &Peer) -> Result<ExportInfo, Refused>;

    /// Opens it (GO, EXPORT_NAME). Dropping the last `Rc` is the disconnect.
    async fn open(&self, name: &str, peer: &Peer) -> Result<Rc<Self::Export>, Refused>;

    /// What LIST shows; `None` where listing is switched off.
    fn list(&self, peer: &Peer) -> Option<Vec<Listed>>;
}
