//! An export that takes everything and keeps nothing: what is left is the socket and the protocol.

use std::rc::Rc;

use sendense_engine::io::Io;
use sendense_engine::plane::{DynExport, Source};
use sendense_engine::pool::IoBuf;
use sendense_engine::storage::LocalBoxFuture;
use sendense_nbd::{Done, ExportInfo, NbdError, StatusExtent, ZeroFlags};

/// A disk that forgets; it reads as zero.
#[derive(Debug, Clone)]
pub(crate) struct Null(pub(crate) ExportInfo);

impl Source for Null {
    fn info(&self) -> ExportInfo {
        self.0.clone()
    }

    fn attach(&self, _io: &Io) -> Rc<dyn DynExport> {
        Rc::new(self.clone())
    }
}

fn now<'a, T: 'a>(value: T) -> LocalBoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl DynExport for Null {
    fn info(&self) -> &ExportInfo {
        &self.0
    }

    fn read(&self, _at: u64, mut buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        buf.as_mut().fill(0);
        let result = Ok(());
        now(Done { result, buf })
    }

    fn write(&self, _at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        let result = Ok(());
        now(Done { result, buf })
    }

    fn write_zeroes(
        &self,
        _at: u64,
        _len: u64,
        _flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        now(Ok(()))
    }

    fn trim(&self, _at: u64, _len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        now(Ok(()))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        now(Ok(()))
    }

    fn block_status(
        &self,
        _context: usize,
        _at: u64,
        len: u64,
        _max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        now(Ok(vec![StatusExtent { len, flags: 3 }]))
    }
}
