//! One request on whichever engine the thread has. Requests are aligned as the file needs it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::fdatasync;

use super::plain;
use crate::io::{Engine, Io};
use crate::pool::IoBuf;
use crate::uring::Part;

/// Reads into a part of the buffer's memory.
pub(super) async fn read(
    io: &Io,
    fd: &Arc<OwnedFd>,
    mut buf: IoBuf,
    part: Part,
    align: usize,
) -> (IoBuf, io::Result<()>) {
    if let Engine::Uring(ring) = io.raw() {
        return ring.read(fd, buf, vec![part], align).await;
    }
    let fd = Arc::clone(fd);
    blocking(io, move || {
        let memory = buf.whole_mut().get_mut(part.range);
        let result = match memory {
            Some(memory) => plain::read(&fd, part.at, memory, align),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        (buf, result)
    })
    .await
}

/// Writes parts of the buffer's memory.
pub(super) async fn write(
    io: &Io,
    fd: &Arc<OwnedFd>,
    mut buf: IoBuf,
    parts: Vec<Part>,
    align: usize,
) -> (IoBuf, io::Result<()>) {
    if let Engine::Uring(ring) = io.raw() {
        return ring.write(fd, buf, parts, align).await;
    }
    let fd = Arc::clone(fd);
    blocking(io, move || {
        let memory = buf.whole_mut();
        let result = parts
            .into_iter()
            .try_for_each(|part| match memory.get(part.range) {
                Some(bytes) => plain::write(&fd, part.at, bytes, align),
                None => Err(io::ErrorKind::InvalidInput.into()),
            });
        (buf, result)
    })
    .await
}

/// Data and size on stable storage.
pub(super) async fn sync(io: &Io, fd: &Arc<OwnedFd>) -> io::Result<()> {
    if let Engine::Uring(ring) = io.raw() {
        return ring.sync(fd).await;
    }
    let fd = Arc::clone(fd);
    io.blocking(move || Ok(fdatasync(&*fd)?)).await
}

/// Runs work that hands a buffer back. Only the end of the runtime can lose it.
pub(super) async fn blocking(
    io: &Io,
    work: impl FnOnce() -> (IoBuf, io::Result<()>) + Send + 'static,
) -> (IoBuf, io::Result<()>) {
    match io.blocking(move || Ok(work())).await {
        Ok(done) => done,
        Err(lost) => (IoBuf::heap(0), Err(lost)),
    }
}
