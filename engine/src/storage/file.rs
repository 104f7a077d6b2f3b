//! One open file.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;

use crate::io::Io;
use crate::pool::IoBuf;

/// A future that stays on its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// One contiguous part of a buffer and where it belongs in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRun {
    /// The byte of the file.
    pub at: u64,
    /// The part of the buffer; within its bounds.
    pub part: Range<usize>,
}

/// An extent as the file system reports it (SEEK_DATA and SEEK_HOLE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub at: u64,
    /// Bytes, never 0.
    pub len: u64,
    /// Whether it is a hole, which reads as zero.
    pub hole: bool,
}

/// QEMU's advisory locks (byte ranges of open file descriptions: 100 + permission,
/// 200 + permission that is not shared).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Nobody else at all, not even `-U` readers: a growing image.
    Exclusive,
    /// We write; others may not open it but with force-share.
    Writer,
    /// We read; other readers are welcome, writers are not.
    Reader,
}

/// An open file. `Send + Sync`: any data-plane thread may use it with its own [`Io`].
///
/// Offsets and lengths of any alignment are accepted everywhere; an implementation on direct I/O
/// bounces what is not aligned. Aligned requests in pool buffers are never copied.
pub trait File: Send + Sync + Debug + 'static {
    /// Fills `buf` from `at`. Bytes behind the end of the file read as zero.
    fn read_at<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)>;

    /// Writes the named parts of `buf`, concurrently; completes when all of them have. On an error
    /// any part may have been written.
    fn write_runs<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)>;

    /// Data and size on stable storage (fdatasync).
    fn sync<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>>;

    /// Blocking form of [`read_at`](Self::read_at).
    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Blocking: writes all of `buf` at `at`.
    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()>;

    /// Blocking: data and size on stable storage.
    fn sync_blocking(&self) -> io::Result<()>;

    /// Cuts or extends to exactly `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// The size in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Which file it is, whatever its name is now: the device and the number on it. Open files
    /// that are one and the same share it.
    fn identity(&self) -> io::Result<(u64, u64)>;

    /// Whether it is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reserves space for `at .. at + len` and extends the size; `Ok(false)` where the file system
    /// cannot (then everything goes on without).
    fn allocate(&self, at: u64, len: u64) -> io::Result<bool>;

    /// Makes a range of a regular file or block device read as zero without writing it, where the
    /// storage can; `Ok(false)` where it cannot.
    fn punch(&self, at: u64, len: u64) -> io::Result<bool>;

    /// The extents that cover `at .. at + len`, in order and without gaps. Where the file system
    /// cannot tell, one data extent.
    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>>;

    /// Takes QEMU's lock of this kind, replacing the one held; `WouldBlock` names the holder's
    /// kind of conflict.
    fn lock(&self, kind: LockKind) -> io::Result<()>;

    /// Drops the lock. Explicit, since a descriptor in a ring outlives its close.
    fn unlock(&self) -> io::Result<()>;
}
