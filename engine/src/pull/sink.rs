//! An export of ours, such as an ingest, as the end of a copy.

use std::fmt;
use std::rc::Rc;

use sendense_formats::GuestRange;
use sendense_nbd::{NbdError, ZeroFlags};

use crate::io::Io;
use crate::plane::DynExport;
use crate::pool::IoBuf;
use crate::storage::{LocalBoxFuture, WriteRun};
use crate::transfer::{DiskSink, Lent};
use crate::{Error, ErrorKind, Result};

/// Writes to an attached export.
pub struct SourceSink(Rc<dyn DynExport>);

impl fmt::Debug for SourceSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceSink").field(self.0.info()).finish()
    }
}

impl SourceSink {
    /// To what [`Source::attach`](crate::plane::Source::attach) gave.
    pub fn new(export: Rc<dyn DynExport>) -> Self {
        Self(export)
    }
}

impl DiskSink for SourceSink {
    fn unit(&self) -> u64 {
        1
    }

    fn write<'a>(
        &'a self,
        _io: &'a Io,
        mut buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, Lent<()>> {
        Box::pin(async move {
            for WriteRun { at, part } in runs {
                // Mostly the whole buffer, which travels as it is.
                let whole = part == (0..buf.len());
                if whole {
                    let done = self.0.write(at, buf).await;
                    buf = done.buf;
                    if let Err(e) = done.result {
                        return (Some(buf), Err(failed(at, e)));
                    }
                    continue;
                }
                let Some(bytes) = buf.as_ref().get(part) else {
                    let e = Error::new(ErrorKind::Invalid, "a run outside of its buffer");
                    return (Some(buf), Err(e));
                };
                let done = self.0.write(at, IoBuf::copy_of(bytes)).await;
                if let Err(e) = done.result {
                    return (Some(buf), Err(failed(at, e)));
                }
            }
            (Some(buf), Ok(()))
        })
    }

    fn zero<'a>(&'a self, _io: &'a Io, range: GuestRange) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let at = range.start().get();
            let zeroed = self.0.write_zeroes(at, range.len(), ZeroFlags::default());
            zeroed.await.map_err(|e| failed(at, e))
        })
    }

    fn finish<'a>(&'a self, _io: &'a Io) -> LocalBoxFuture<'a, Result<()>> {
        // The seal makes everything durable; nothing has to be stable before.
        Box::pin(async { Ok(()) })
    }
}

fn failed(at: u64, e: NbdError) -> Error {
    let kind = match e {
        NbdError::NoSpace => ErrorKind::NoSpace,
        NbdError::Shutdown => ErrorKind::WrongState,
        _ => ErrorKind::Io,
    };
    Error::with(kind, format!("writing the backup at byte {at}"), e)
}
