//! A restore point, or any chain, as a read-only export.
//!
//! Block status tells where the disk is zero, and in a context of its own which blocks this point
//! changed. Any number of clients read at once; they share one map.

use std::rc::Rc;
use std::sync::Arc;

use sendense_formats::GuestRange;
use sendense_nbd::{Done, ExportInfo, NbdError, StatusExtent, ZeroFlags};

use super::status::{DIRTY, Extents, HOLE, ZERO};
use crate::chain::{Chain, changed};
use crate::io::Io;
use crate::plane::{DynExport, Source};
use crate::pool::IoBuf;
use crate::storage::LocalBoxFuture;

/// The context that names the blocks that this point changed: bit 0 is set on those that the
/// newest layer decides about. Named like QEMU's bitmaps, so that their consumers understand it.
pub const CHANGED_CONTEXT: &str = "qemu:dirty-bitmap:sendense-changed";

/// Guest bytes that one BLOCK_STATUS looks at; a client asks on from where the reply ends.
const LOOK: u64 = 64 << 30;
/// Guest bytes that are mapped at once.
const STEP: u64 = 512 << 20;

/// A chain to be served.
#[derive(Debug, Clone)]
pub struct RestoreSource {
    chain: Arc<Chain>,
    info: ExportInfo,
}

impl RestoreSource {
    /// Serves the chain.
    pub fn new(chain: Arc<Chain>) -> Self {
        let info = ExportInfo {
            contexts: vec![CHANGED_CONTEXT.to_owned()],
            ..ExportInfo::read_only(chain.size())
        };
        Self { chain, info }
    }

    /// With a description for people.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.info.description = Some(description.into());
        self
    }

    /// Changes what clients are told; size and read-only stay.
    #[must_use]
    pub fn with_info(mut self, change: impl FnOnce(&mut ExportInfo)) -> Self {
        change(&mut self.info);
        self.info.size = self.chain.size();
        self.info.read_only = true;
        self
    }

    /// The chain.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }
}

impl Source for RestoreSource {
    fn info(&self) -> ExportInfo {
        self.info.clone()
    }

    fn attach(&self, io: &Io) -> Rc<dyn DynExport> {
        Rc::new(Attached {
            io: io.clone(),
            chain: self.chain.clone(),
            info: self.info.clone(),
        })
    }
}

struct Attached {
    io: Io,
    chain: Arc<Chain>,
    info: ExportInfo,
}

impl DynExport for Attached {
    fn info(&self) -> &ExportInfo {
        &self.info
    }

    fn read(&self, at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async move {
            let (buf, result) = self.chain.read(&self.io, at, buf).await;
            Done {
                result: result.map_err(|e| {
                    tracing::error!(error = %e, "restore read failed");
                    NbdError::Io
                }),
                buf,
            }
        })
    }

    fn write(&self, _at: u64, buf: IoBuf) -> LocalBoxFuture<'_, Done<IoBuf>> {
        Box::pin(async move {
            Done {
                result: Err(NbdError::NotPermitted),
                buf,
            }
        })
    }

    fn write_zeroes(
        &self,
        _at: u64,
        _len: u64,
        _flags: ZeroFlags,
    ) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Err(NbdError::NotPermitted) })
    }

    fn trim(&self, _at: u64, _len: u64) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Err(NbdError::NotPermitted) })
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), NbdError>> {
        Box::pin(async { Ok(()) })
    }

    fn block_status(
        &self,
        context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> LocalBoxFuture<'_, Result<Vec<StatusExtent>, NbdError>> {
        Box::pin(async move {
            let mut extents = Extents::new(max_extents);
            let end = at.saturating_add(len.min(LOOK)).min(self.info.size);
            let mut from = at;
            while from < end && !extents.is_full() {
                let to = (from - from % STEP).saturating_add(STEP).min(end);
                let range = GuestRange::new(from, to - from).ok_or(NbdError::Invalid)?;
                let pieces = self.chain.map_async(range).await.map_err(|e| {
                    tracing::error!(error = %e, "block status failed");
                    NbdError::Io
                })?;
                if context == 0 {
                    for piece in pieces {
                        let zero = piece.content.is_zero();
                        let flags = if zero { HOLE | ZERO } else { 0 };
                        extents.push(piece.range.len(), flags);
                    }
                } else {
                    for (range, changed) in changed(&pieces) {
                        extents.push(range.len(), if changed { DIRTY } else { 0 });
                    }
                }
                from = to;
            }
            Ok(extents.into_list())
        })
    }
}
