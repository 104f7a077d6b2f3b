//! What the data plane can export, object-safe: a [`Source`] is shared by all threads, and each
//! connection attaches to it on its own thread.

use std::fmt;
use std::rc::Rc;

use sendense_nbd::registry::ConnectionGuard;
use sendense_nbd::{Done, Export, ExportInfo, NbdError, StatusExtent, ZeroFlags};

use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// A disk that can be exported: an ingest session, a restore point, a declared file.
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// What clients are told.
    fn info(&self) -> ExportInfo;

    /// Opens it for one connection on this thread. Dropping the last `Rc` is the disconnect.
    fn attach(&self, io: &Io) -> Rc<dyn DynExport>;
}

/// The object-safe twin of [`sendense_nbd::Export`]: same methods, same contract.
pub trait DynExport: 'static {
    /// What clients are told.
    fn info(&self) -> &ExportInfo;

    /// Fills the buffer with the bytes at `at`.
    fn read(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>>;

    /// Writes the buffer's bytes at `at`.
    fn write(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>>;

    /// Makes the range read as zeroes.
    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>>;

    /// The range's content is no longer needed.
    fn trim(&self, at: u64, len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>>;

    /// Puts on stable storage what was replied before, on any connection.
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>>;

    /// A change that was asked for and never came, as [`Export::refused`] says.
    fn refused(&self, at: u64, len: u64) {
        let _ = (at, len);
    }

    /// The extents from `at` on, as [`Export::block_status`] says.
    fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>>;
}

/// An attached source as the NBD session sees it.
pub struct AttachedExport {
    export: Rc<dyn DynExport>,
    /// Its place among the export's connections, where it came from a registry.
    _guard: Option<ConnectionGuard>,
}

impl AttachedExport {
    /// Wraps what [`Source::attach`] gave.
    pub fn new(export: Rc<dyn DynExport>) -> Self {
        Self {
            export,
            _guard: None,
        }
    }

    /// The same, holding its place in the registry.
    pub fn guarded(export: Rc<dyn DynExport>, guard: ConnectionGuard) -> Self {
        Self {
            export,
            _guard: Some(guard),
        }
    }
}

impl fmt::Debug for AttachedExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttachedExport")
            .field(self.export.info())
            .finish()
    }
}

impl Export for AttachedExport {
    type Buf = IoBuf;

    fn info(&self) -> &ExportInfo {
        self.export.info()
    }

    async fn read(&self, at: u64, buf: IoBuf) -> Done<IoBuf> {
        self.export.read(at, buf).await
    }

    async fn write(&self, at: u64, buf: IoBuf) -> Done<IoBuf> {
        self.export.write(at, buf).await
    }

    async fn write_zeroes(&self, at: u64, len: u64, flags: ZeroFlags) -> Result<(), NbdError> {
        self.export.write_zeroes(at, len, flags).await
    }

    async fn trim(&self, at: u64, len: u64) -> Result<(), NbdError> {
        self.export.trim(at, len).await
    }

    async fn flush(&self) -> Result<(), NbdError> {
        self.export.flush().await
    }

    fn refused(&self, at: u64, len: u64) {
        self.export.refused(at, len);
    }

    async fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        self.export
            .block_status(context, at, len, max_extents)
            .await
    }
}
