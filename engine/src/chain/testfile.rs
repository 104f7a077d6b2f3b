//! A file in memory for the tests of this crate's readers.

use std::io;
use std::sync::Mutex;

use crate::io::Io;
use crate::pool::IoBuf;
use crate::storage::{Extent, File, LocalBoxFuture, LockKind, WriteRun};

#[derive(Debug, Default)]
pub(crate) struct VecFile(Mutex<Vec<u8>>);

impl VecFile {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }
}

impl File for VecFile {
    fn read_at<'a>(
        &'a self,
        _io: &'a Io,
        at: u64,
        mut buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        let result = self.read_at_blocking(at, buf.as_mut());
        Box::pin(async move { (buf, result) })
    }

    fn write_runs<'a>(
        &'a self,
        _io: &'a Io,
        buf: IoBuf,
        runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        for run in runs {
            self.write_at_blocking(run.at, &buf.as_ref()[run.part])
                .unwrap();
        }
        Box::pin(async move { (buf, Ok(())) })
    }

    fn sync<'a>(&'a self, _io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let at = usize::try_from(at).unwrap().min(bytes.len());
        let there = buf.len().min(bytes.len() - at);
        buf[..there].copy_from_slice(&bytes[at..at + there]);
        buf[there..].fill(0);
        Ok(())
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let at = usize::try_from(at).unwrap();
        let end = (at + buf.len()).max(bytes.len());
        bytes.resize(end, 0);
        bytes[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn sync_blocking(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0
            .lock()
            .unwrap()
            .resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn allocate(&self, _at: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        let mut bytes = self.0.lock().unwrap();
        let at = usize::try_from(at).unwrap().min(bytes.len());
        let end = (at + usize::try_from(len).unwrap()).min(bytes.len());
        bytes[at..end].fill(0);
        Ok(true)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent {
            at,
            len,
            hole: false,
        }])
    }

    fn lock(&self, _kind: LockKind) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}
