//! Moving a whole disk, or named parts of it, from wherever it is to wherever it goes.
//!
//! A [`DiskReader`] tells which parts are zero and reads the others; a [`DiskSink`] takes data and
//! zeroes. [`copy`] stands between them with a few blocks in flight: memory is bounded by
//! `parallel * block`, whatever the disk's size. Restore, pull, convert and compare are the same
//! walk with other ends.

mod compare;
mod copy;
mod ends;
mod nbd;
mod padded;
mod progress;
mod qcow2;
mod read;
#[cfg(test)]
mod tests;
mod walk;
mod zeroes;

pub use compare::{Comparison, compare};
pub use copy::{Copied, CopyOptions, copy};
pub use ends::{FileReader, FileSink, FileSinkKind};
pub(crate) use nbd::client;
pub use nbd::{NbdReader, NbdSink};
pub use progress::{Progress, ProgressSnapshot};
pub use qcow2::Qcow2Sink;
pub use read::ChainReader;
pub use zeroes::is_zero;

use sendense_formats::GuestRange;

use crate::Result;
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{LocalBoxFuture, WriteRun};

/// A run of a disk that is known to read as zero, or that has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The bytes.
    pub range: GuestRange,
    /// Whether they are known to be zero.
    pub zero: bool,
}

/// What becomes of a buffer that was lent: it comes back, unless the other side keeps it.
pub type Lent<T> = (Option<IoBuf>, Result<T>);

/// A disk to read from. Bound to one thread.
pub trait DiskReader {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// The spans of `range`, in order, without gaps. Asked for at most 512 MiB at once.
    fn spans(&self, range: GuestRange) -> LocalBoxFuture<'_, Result<Vec<Span>>>;

    /// Starts to bring what [`spans`](Self::spans) will need for this range; only a hint.
    fn prepare(&self, _range: GuestRange) {}

    /// Fills the buffer from `at`, which lies inside of the disk with all of the buffer.
    fn read<'a>(&'a self, io: &'a Io, at: u64, buf: IoBuf) -> LocalBoxFuture<'a, Lent<()>>;
}

/// A disk to write to. Bound to one thread.
pub trait DiskSink {
    /// Writes come on multiples of this, their length too but at the disk's end; a power of two.
    fn unit(&self) -> u64;

    /// Writes the named parts of `buf`; `at` of a run is a byte of the disk.
    fn write<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, Lent<()>>;

    /// Makes a range read as zero.
    fn zero<'a>(&'a self, io: &'a Io, range: GuestRange) -> LocalBoxFuture<'a, Result<()>>;

    /// Puts everything on stable storage, and completes the target.
    fn finish<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, Result<()>>;
}
