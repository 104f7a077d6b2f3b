//! WRITE: its parts go to the export one by one, its reply goes out when the last is done.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::unserved::Unserved;
use crate::buffer::BufferPool;
use crate::error::NbdError;
use crate::export::Export;
use crate::session::Call;

/// One WRITE of which parts are in flight.
pub(super) struct Write {
    call: Call,
    fua: bool,
    /// Bytes that are not done yet, received or not.
    left: Cell<u64>,
    failed: Cell<Option<(NbdError, u64)>>,
    _slot: OwnedSemaphorePermit,
}

impl Write {
    pub(super) fn new(call: Call, fua: bool, slot: OwnedSemaphorePermit) -> Self {
        Self {
            call,
            fua,
            left: Cell::new(call.len),
            failed: Cell::new(None),
            _slot: slot,
        }
    }
}

/// One full buffer of it.
pub(super) struct Part<B, X: Export> {
    pub(super) at: u64,
    pub(super) buf: B,
    pub(super) unserved: Unserved<X>,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) write: Rc<Write>,
}

impl<S, P, X> Connection<S, P, X>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    pub(super) async fn write_part(&self, part: Part<P::Buf, X>) {
        let Part {
            at,
            buf,
            unserved,
            permit,
            write,
        } = part;
        let len = u64::try_from(buf.as_ref().len()).unwrap_or(u64::MAX);
        unserved.served();
        let done = self.export.write(at, buf).await;
        // The buffer and its bytes are free before the reply is: the next payload may come.
        drop(done.buf);
        drop(permit);
        if let Err(error) = done.result
            && write.failed.get().is_none()
        {
            write.failed.set(Some((error, at)));
        }
        write.left.set(write.left.get().saturating_sub(len));
        if write.left.get() > 0 {
            return;
        }
        match write.failed.get() {
            Some((error, at)) => {
                let of = (write.call.cookie, write.call.at);
                self.fail(of, error, &error.to_string(), Some(at));
            }
            None => self.finish(&write.call, Ok(()), write.fua).await,
        }
    }
}
