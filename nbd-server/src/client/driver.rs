//! The task that drives one connection: takes calls from a channel, sends them in batches by one
//! vectored write, and routes replies back by their cookies.
//!
//! Sending and receiving go on side by side, so a server that waits for us to read its replies is
//! never waited for in turn. When anything fails the connection ends, and every call, waiting or
//! later, gets that same error: nothing hangs.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, interval, timeout};

use super::error::ClientError;
use super::session::{Answer, Asked, Finished, Into_, Session, Target, Want};

type Result<T> = std::result::Result<T, ClientError>;

/// The most calls that one write takes along.
const BATCH: usize = 64;
/// Replies to writes are 16 bytes: many fit here. Longer payloads pass by it.
const READ_BUFFER: usize = 16 << 10;
/// How much must move within the reply timeout, where no reply was finished.
const PROGRESS: u64 = 64 << 10;
/// How long a server may take to close after DISC.
const CLOSE: Duration = Duration::from_secs(2);

/// What a request carries until it is answered.
pub(super) struct Ticket {
    pub(super) done: oneshot::Sender<Result<Answer>>,
    /// The in-flight quota: requests, bytes.
    pub(super) permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What a handle tells the task.
pub(super) enum Message {
    /// Send this.
    Call {
        asked: Asked,
        payload: Bytes,
        into: Option<Into_>,
        ticket: Ticket,
    },
    /// Answer all that was sent, then take leave.
    Disconnect(oneshot::Sender<()>),
}

/// What the task's parts and the handles share.
pub(super) struct Shared {
    session: Mutex<Session<Ticket>>,
    /// Why the connection ended.
    ended: OnceLock<ClientError>,
    idle: Notify,
    moved: AtomicU64,
    finished: AtomicU64,
}

impl Shared {
    pub(super) fn new(session: Session<Ticket>) -> Self {
        Self {
            session: Mutex::new(session),
            ended: OnceLock::new(),
            idle: Notify::new(),
            moved: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// Why the connection ended.
    pub(super) fn ended(&self) -> ClientError {
        self.ended.get().cloned().unwrap_or(ClientError::Closed)
    }

    fn session(&self) -> MutexGuard<'_, Session<Ticket>> {
        // No panic happens under this lock but in an allocation; the session is sound then too.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Drives the connection to its end.
pub(super) async fn run<S>(
    stream: S,
    shared: Arc<Shared>,
    mut calls: mpsc::UnboundedReceiver<Message>,
    reply_timeout: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut receiving = Box::pin(receive(reader, &shared));
    let mut leave = None;
    let end = tokio::select! {
        end = &mut receiving => end,
        end = send(writer, &shared, &mut calls, &mut leave) => match end {
            // DISC is sent: what the server still says does not matter, but that it closes does.
            Ok(()) => {
                let _ = timeout(CLOSE, &mut receiving).await;
                Err(ClientError::Closed)
            }
            failed => failed,
        },
        end = watch(&shared, reply_timeout) => end,
    };
    drop(receiving);
    // The reason is set before the channel closes, so that no call can miss it.
    let reason = end.err().unwrap_or(ClientError::Closed);
    let reason = shared.ended.get_or_init(|| reason).clone();
    calls.close();
    let abandoned = shared.session().abandon();
    for ticket in abandoned {
        let _ = ticket.done.send(Err(reason.clone()));
    }
    while let Ok(message) = calls.try_recv() {
        match message {
            Message::Call { ticket, .. } => drop(ticket.done.send(Err(reason.clone()))),
            Message::Disconnect(left) => drop(left.send(())),
        }
    }
    if let Some(leave) = leave {
        let _ = leave.send(());
    }
}

/// Sends calls until there is no handle any more, or one asks to disconnect.
async fn send<W: AsyncWrite + Unpin>(
    mut writer: W,
    shared: &Shared,
    calls: &mut mpsc::UnboundedReceiver<Message>,
    leave: &mut Option<oneshot::Sender<()>>,
) -> Result<()> {
    let mut messages = Vec::with_capacity(BATCH);
    let mut headers = Vec::new();
    let mut parts = Vec::with_capacity(BATCH);
    while leave.is_none() && calls.recv_many(&mut messages, BATCH).await > 0 {
        headers.clear();
        parts.clear();
        {
            let mut session = shared.session();
            for message in messages.drain(..) {
                match message {
                    Message::Call {
                        asked,
                        payload,
                        into,
                        ticket,
                    } => {
                        session.ask(&asked, into, ticket, &mut headers);
                        parts.push((headers.len(), payload));
                    }
                    // A second one learns of the end with the first: both are dropped then.
                    Message::Disconnect(left) => *leave = Some(left),
                }
            }
        }
        let mut slices = Vec::with_capacity(parts.len() * 2);
        let mut from = 0;
        for (to, payload) in &parts {
            slices.push(IoSlice::new(headers.get(from..*to).unwrap_or_default()));
            if !payload.is_empty() {
                slices.push(IoSlice::new(payload));
            }
            from = *to;
        }
        write_all(&mut writer, &mut slices, shared).await?;
        writer.flush().await?;
        // Payloads are done with; their memory need not wait for the replies.
        parts.clear();
    }
    while !shared.session().is_idle() {
        shared.idle.notified().await;
    }
    headers.clear();
    shared.session().disconnect(&mut headers);
    writer.write_all(&headers).await?;
    // A server may have gone already: that is no error of a connection that is done.
    let _ = writer.shutdown().await;
    Ok(())
}

async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut slices: &mut [IoSlice<'_>],
    shared: &Shared,
) -> Result<()> {
    while !slices.is_empty() {
        let n = writer.write_vectored(slices).await?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        shared.moved(n);
        IoSlice::advance_slices(&mut slices, n);
    }
    Ok(())
}

/// Receives replies for ever; ends by an error, or well at the server's close behind DISC.
async fn receive<R: AsyncRead + Unpin>(reader: R, shared: &Shared) -> Result<()> {
    let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
    let mut small = Vec::new();
    loop {
        let want = shared.session().want()?;
        let finished = match want {
            Want::Bytes(len) => {
                small.clear();
                // Grows with what arrives, not with what a header claims.
                let mut part = (&mut reader).take(len as u64);
                while small.len() < len {
                    if part.read_buf(&mut small).await? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                }
                shared.moved(len);
                shared.session().give(&small)?
            }
            Want::Data(target, range) => {
                fill(&mut reader, &target, range, shared).await?;
                drop(target);
                shared.session().filled()?
            }
        };
        if let Some(Finished { tag, answer }) = finished {
            shared.finished.fetch_add(1, Ordering::Relaxed);
            let Ticket { done, permits } = tag;
            drop(permits);
            let _ = done.send(Ok(answer));
            if shared.session().is_idle() {
                shared.idle.notify_one();
            }
        }
    }
}

/// Receives straight into a READ's memory, which is locked only while a copy is made.
async fn fill<R: AsyncRead + Unpin>(
    reader: &mut R,
    target: &Target,
    mut range: std::ops::Range<usize>,
    shared: &Shared,
) -> Result<()> {
    while !range.is_empty() {
        let n: io::Result<usize> = std::future::poll_fn(|cx| {
            let mut memory = target.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(room) = memory.as_mut().get_mut(range.clone()) else {
                // The caller's buffer has shrunk under us.
                return std::task::Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            };
            let mut room = ReadBuf::new(room);
            std::task::ready!(std::pin::Pin::new(&mut *reader).poll_read(cx, &mut room))?;
            std::task::Poll::Ready(Ok(room.filled().len()))
        })
        .await;
        let n = n?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        shared.moved(n);
        range.start += n;
    }
    Ok(())
}

/// Ends the connection when the server owes a reply and neither finishes one nor moves bytes.
async fn watch(shared: &Shared, allowed: Duration) -> Result<()> {
    let mut ticks = interval((allowed / 8).max(Duration::from_millis(5)));
    let (mut since, mut moved, mut finished) = (Instant::now(), 0, 0);
    loop {
        ticks.tick().await;
        let now_moved = shared.moved.load(Ordering::Relaxed);
        let now_finished = shared.finished.load(Ordering::Relaxed);
        let progress = now_finished != finished || now_moved - moved >= PROGRESS;
        if progress || shared.session().is_idle() {
            (since, moved, finished) = (Instant::now(), now_moved, now_finished);
        } else if since.elapsed() >= allowed {
            return Err(ClientError::Timeout("a reply is due"));
        }
    }
}
