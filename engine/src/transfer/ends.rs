//! Files and block devices as ends of a copy.

use std::io;
use std::sync::Arc;

use sendense_formats::GuestRange;

use super::read::push;
use super::{DiskReader, DiskSink, Lent, Span};
use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{File, LocalBoxFuture, WriteRun};
use crate::{Error, ErrorKind, Result};

/// Bytes of zero that are written at once where the storage cannot do without.
const ZEROES: usize = 1 << 20;

/// Reads a raw file or a block device.
#[derive(Debug, Clone)]
pub struct FileReader {
    file: Arc<dyn File>,
    size: u64,
    name: String,
}

impl FileReader {
    /// Of `size` bytes of this file; `name` is for messages.
    pub fn new(file: Arc<dyn File>, size: u64, name: impl Into<String>) -> Self {
        Self {
            file,
            size,
            name: name.into(),
        }
    }

    /// Fails where the file no longer has the size that it was opened with: as a disk, it is not
    /// the same one any more.
    pub fn unchanged(&self) -> Result<()> {
        match self.len()? {
            len if len == self.size => Ok(()),
            len => Err(self.changed(len)),
        }
    }

    /// Fails where what was read up to `end` may be no more than the zeroes behind a new end.
    fn reaches(&self, end: u64) -> Result<()> {
        match self.len()? {
            len if len >= end => Ok(()),
            len => Err(self.changed(len)),
        }
    }

    fn len(&self) -> Result<u64> {
        self.file.len().map_err(|e| Error::io(self.name.clone(), e))
    }

    fn changed(&self, len: u64) -> Error {
        let (name, size) = (&self.name, self.size);
        Error::new(
            ErrorKind::SourceChanged,
            format!("{name}: has {len} bytes now, and had {size} when it was opened"),
        )
    }
}

impl DiskReader for FileReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn spans(&self, range: GuestRange) -> LocalBoxFuture<'_, Result<Vec<Span>>> {
        Box::pin(async move {
            let (at, len) = (range.start().get(), range.len());
            let file = self.file.clone();
            let extents = blocking(move || file.extents(at, len)).await;
            let extents = extents.map_err(|e| Error::io(self.name.clone(), e))?;
            self.reaches(range.end().get())?;
            let mut spans = Vec::new();
            let mut next = at;
            for extent in extents {
                let Some(told) = GuestRange::new(extent.at, extent.len) else {
                    continue;
                };
                let told = told.intersect(range);
                if told.start().get() == next && !told.is_empty() {
                    push(&mut spans, told, extent.hole);
                    next = told.end().get();
                }
            }
            // What was not told about is read.
            if let Some(rest) = GuestRange::new(next, range.end().get().saturating_sub(next)) {
                push(&mut spans, rest, false);
            }
            Ok(spans)
        })
    }

    fn read<'a>(&'a self, io: &'a Io, at: u64, buf: IoBuf) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            let (buf, result) = self.file.read_at(io, at, buf).await;
            let result = result.map_err(|e| Error::io(self.name.clone(), e));
            let result = result.and_then(|()| self.reaches(at.saturating_add(buf.len() as u64)));
            (Some(buf), result)
        })
    }
}

/// What is known of a target's old content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSinkKind {
    /// A file that was just made, of the disk's size: reads as zero already, and stays thin.
    Fresh,
    /// Whatever was there: zero has to be made.
    Used,
}

/// Writes a raw file or a block device.
#[derive(Debug, Clone)]
pub struct FileSink {
    file: Arc<dyn File>,
    kind: FileSinkKind,
    name: String,
}

impl FileSink {
    /// Into a new file, which gets the disk's size at once.
    pub fn fresh(file: Arc<dyn File>, size: u64, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let io = |e| Error::io(name.clone(), e);
        if file.len().map_err(io)? != 0 {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{name}: is not empty, and nothing is overwritten unasked"),
            ));
        }
        file.set_len(size).map_err(io)?;
        Ok(Self {
            file,
            kind: FileSinkKind::Fresh,
            name,
        })
    }

    /// Over a device, or a file that may be overwritten; it must have room for the disk. What lies
    /// behind the disk's end is left as it is.
    pub fn over(file: Arc<dyn File>, size: u64, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let len = file.len().map_err(|e| Error::io(name.clone(), e))?;
        if len < size {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{name}: has {len} bytes, and the disk has {size}"),
            ));
        }
        Ok(Self {
            file,
            kind: FileSinkKind::Used,
            name,
        })
    }

    async fn write_zeroes(&self, io: &Io, range: GuestRange) -> io::Result<()> {
        let (mut at, end) = (range.start().get(), range.end().get());
        let first = usize::try_from(range.len()).unwrap_or(ZEROES).min(ZEROES);
        let mut buf = IoBuf::heap(first);
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(first).min(first);
            let run = WriteRun { at, part: 0..part };
            let result;
            (buf, result) = self.file.write_runs(io, buf, vec![run]).await;
            result?;
            at += part as u64;
        }
        Ok(())
    }
}

impl DiskSink for FileSink {
    fn unit(&self) -> u64 {
        4096
    }

    fn write<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            let (buf, result) = self.file.write_runs(io, buf, runs).await;
            (
                Some(buf),
                result.map_err(|e| Error::io(self.name.clone(), e)),
            )
        })
    }

    fn zero<'a>(&'a self, io: &'a Io, range: GuestRange) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.kind == FileSinkKind::Fresh {
                return Ok(());
            }
            let file = self.file.clone();
            let (at, len) = (range.start().get(), range.len());
            let result = match blocking(move || file.punch(at, len)).await {
                Ok(true) => Ok(()),
                Ok(false) => self.write_zeroes(io, range).await,
                Err(e) => Err(e),
            };
            result.map_err(|e| Error::io(self.name.clone(), e))
        })
    }

    fn finish<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let result = self.file.sync(io).await;
            result.map_err(|e| Error::io(self.name.clone(), e))
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(io::Error::other(e)),
    }
}
