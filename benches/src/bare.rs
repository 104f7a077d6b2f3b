//! The bare loop that everything is held against: headers off the socket, payloads into aligned
//! buffers, buffers into a flat file that was allocated before. No checks, no zero detection, no
//! checksums, no format; only as much of NBD as our client needs to talk to it.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use sendense_engine::io::{Io, IoConfig};
use sendense_engine::storage::{Create, File, WriteRun, local};
use sendense_nbd::wire::{self, Request, SimpleReply, cmd, export_flags, opt};
use sendense_nbd::{BufferPool, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, spawn_local};

/// Serves until the process is ended.
pub(crate) fn serve(
    listener: std::os::unix::net::UnixListener,
    image: &Path,
    size: u64,
) -> anyhow::Result<()> {
    let file = local::open_path(image, Create::New)?;
    if !file.allocate(0, size)? {
        file.set_len(size)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let io = Io::new(IoConfig::default())?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (io, file) = (io.clone(), Arc::clone(&file));
            // A client that leaves is the end of its connection and of nothing else.
            spawn_local(async move { connection(stream, io, file, size).await });
        }
    })
}

async fn connection(stream: UnixStream, io: Io, file: Arc<dyn File>, size: u64) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    handshake(&mut reader, &mut writer, size).await?;
    let (done, mut replies) = mpsc::unbounded_channel();
    let replier = spawn_local(async move {
        let (mut cookies, mut out) = (Vec::new(), Vec::new());
        while replies.recv_many(&mut cookies, 64).await > 0 {
            out.clear();
            for (cookie, error) in cookies.drain(..) {
                SimpleReply { error, cookie }.encode(&mut out);
            }
            writer.write_all(&out).await?;
        }
        io::Result::Ok(())
    });
    let pool = io.pool();
    let mut writes = JoinSet::new();
    let mut header = [0; wire::COMPACT_REQUEST_LEN];
    let shared = Rc::new((file, io));
    loop {
        reader.read_exact(&mut header).await?;
        let request = Request::decode(&header, false).ok_or(io::ErrorKind::InvalidData)?;
        match request.command {
            cmd::WRITE => {}
            cmd::FLUSH => {
                while writes.join_next().await.is_some() {}
                let error = u32::from(shared.0.sync(&shared.1).await.is_err()) * 5;
                let _ = done.send((request.cookie, error));
                continue;
            }
            _ => break,
        }
        // In pieces of a buffer each; the last one replies.
        let (mut at, mut left) = (request.offset, request.len);
        let mut pieces = Vec::new();
        while left > 0 {
            let len = left.min(pool.slot_len() as u64);
            let part = usize::try_from(len).unwrap_or(0);
            let mut buf = pool.take(part, Purpose::Receive).await;
            reader.read_exact(buf.as_mut()).await?;
            let (shared, start) = (Rc::clone(&shared), at);
            pieces.push(spawn_local(async move {
                let runs = vec![WriteRun {
                    at: start,
                    part: 0..part,
                }];
                shared.0.write_runs(&shared.1, buf, runs).await.1
            }));
            (at, left) = (at + len, left - len);
        }
        let done = done.clone();
        writes.spawn_local(async move {
            let mut error = 0;
            for piece in pieces {
                if !matches!(piece.await, Ok(Ok(()))) {
                    error = 5;
                }
            }
            let _ = done.send((request.cookie, error));
        });
        while writes.try_join_next().is_some() {}
    }
    drop(done);
    replier.await?
}

/// Refuses every option until the client falls back to EXPORT_NAME.
async fn handshake(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    size: u64,
) -> io::Result<()> {
    writer.write_all(&wire::greeting()).await?;
    let mut flags = [0; wire::CLIENT_FLAGS_LEN];
    reader.read_exact(&mut flags).await?;
    loop {
        let mut header = [0; wire::OPTION_HEADER_LEN];
        reader.read_exact(&mut header).await?;
        let header = wire::OptionHeader::decode(&header).ok_or(io::ErrorKind::InvalidData)?;
        let mut data = Vec::new();
        reader
            .take(u64::from(header.len))
            .read_to_end(&mut data)
            .await?;
        let mut out = Vec::new();
        if header.option == opt::EXPORT_NAME {
            let flags =
                export_flags::HAS_FLAGS | export_flags::SEND_FLUSH | export_flags::CAN_MULTI_CONN;
            wire::export_name_reply(&mut out, size, flags, true);
            return writer.write_all(&out).await;
        }
        wire::option_reply(&mut out, header.option, wire::rep::ERR_UNSUP, &[]);
        writer.write_all(&out).await?;
    }
}
