//! The ingest as one connection sees it.

use std::rc::Rc;
use std::sync::Arc;

use sendense_nbd::{BlockSize, Done, ExportInfo, NbdError, StatusExtent, ZeroFlags};

use super::Ingest;
use super::core::Core;
use super::detach::Detached;
use crate::io::Io;
use crate::plane::{DynExport, Source};
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// One connection.
struct Connection {
    core: Arc<Core>,
    io: Io,
    info: ExportInfo,
}

impl Source for Ingest {
    fn info(&self) -> ExportInfo {
        info(&self.core)
    }

    fn attach(&self, io: &Io) -> Rc<dyn DynExport> {
        Rc::new(Connection {
            core: Arc::clone(&self.core),
            io: io.clone(),
            info: info(&self.core),
        })
    }
}

fn info(core: &Core) -> ExportInfo {
    // Long payloads are cut on multiples of the cluster, so that only their ends are partial.
    let preferred = u32::try_from(core.cluster.bytes()).unwrap_or(65536);
    ExportInfo {
        block_size: BlockSize {
            preferred,
            ..BlockSize::default()
        },
        ..ExportInfo::writable(core.size)
    }
}

impl Connection {
    fn parts(&self) -> (Arc<Core>, Io) {
        (Arc::clone(&self.core), self.io.clone())
    }
}

impl DynExport for Connection {
    fn info(&self) -> &ExportInfo {
        &self.info
    }

    fn read(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(self.core.read(&self.io, at, buf))
    }

    fn write(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        let (core, io) = self.parts();
        Box::pin(Detached::new(async move { core.write(&io, at, buf).await }))
    }

    fn write_zeroes(
        &self,
        at: u64,
        len: u64,
        _flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        // Always fast; and thin storage keeps no range allocated.
        let (core, io) = self.parts();
        Box::pin(Detached::new(async move { core.zero(&io, at, len).await }))
    }

    fn trim(&self, at: u64, len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        self.write_zeroes(at, len, ZeroFlags::default())
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        let (core, io) = self.parts();
        Box::pin(Detached::new(async move { core.flush(&io).await }))
    }

    fn refused(&self, at: u64, len: u64) {
        self.core.refused(at, len);
    }

    fn block_status(
        &self,
        _context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        Box::pin(async move { self.core.status(at, len, max_extents) })
    }
}
