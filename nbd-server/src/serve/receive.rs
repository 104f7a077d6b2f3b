//! The receiving half: headers out of the inbox, payloads straight into lent buffers.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use super::End;
use super::connection::{Connection, Job, gone};
use super::inbox::{AHEAD, Inbox};
use super::unserved::Unserved;
use super::write::{Part, Write};
use crate::buffer::{BufferPool, Purpose};
use crate::export::Export;
use crate::session::{Call, Command, Event, Refusal};

/// What is left of a payload comes by way of the inbox up to this length, together with the
/// requests behind it: copying so little is cheaper than a call to the system.
const SMALL: usize = 16 << 10;

/// Receives until the connection ends; tells why.
pub(super) async fn receive<S, P, X>(connection: &Connection<S, P, X>, inbox: Inbox) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    let mut receiver = Receiver {
        connection,
        inbox,
        ahead: true,
    };
    loop {
        match receiver.request().await {
            Ok(()) => {}
            Err(end) => return end,
        }
    }
}

struct Receiver<'a, S, P: BufferPool, X: Export> {
    connection: &'a Connection<S, P, X>,
    inbox: Inbox,
    /// Requests are small: read as much as there is. Else only the header, so that the payload
    /// lands where it belongs.
    ahead: bool,
}

impl<S, P, X> Receiver<'_, S, P, X>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    async fn request(&mut self) -> Result<(), End> {
        let connection = self.connection;
        // Replies that nobody takes hold receiving back. The loop polls again when some left.
        poll_fn(|_| {
            if connection.outbox.borrow().is_full() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        let slot = permit(&connection.requests, 1).await;
        let event = self.header().await?;
        connection.count(|counts| counts.requests += 1);
        let unserved = |at, len| Unserved::new(&connection.export, at, len);
        match event {
            Event::Call(call) => {
                let changes = match call.command {
                    Command::Write { fua } => {
                        let unserved = unserved(call.at, call.len);
                        return self.write(call, fua, unserved, slot).await;
                    }
                    Command::Zero { .. } | Command::Trim { .. } => call.len,
                    Command::Read { .. } | Command::Status { .. } | Command::Flush => 0,
                };
                let job = Job::Call(call, unserved(call.at, changes), slot);
                connection.jobs.borrow_mut().push_back(job);
                self.ahead = true;
            }
            Event::Nothing { cookie, at, read } => {
                connection.outbox.borrow_mut().reply(|out| {
                    connection.session.success(out, cookie, at, read);
                });
            }
            Event::Refuse(Refusal {
                cookie,
                at,
                error,
                why,
                skip,
                changes,
            }) => {
                let unserved = unserved(at, changes);
                self.skip(skip).await?;
                // The export knows before the client does.
                drop(unserved);
                connection.fail((cookie, at), error, why, None);
            }
            Event::Disconnect => return Err(End::Disconnected),
            Event::Broken { why, at, changes } => {
                drop(unserved(at, changes));
                return Err(End::Broken(why));
            }
        }
        Ok(())
    }

    async fn header(&mut self) -> Result<Event, End> {
        let need = self.connection.session.header_len();
        while self.inbox.data().len() < need {
            let have = self.inbox.data().len();
            let most = if self.ahead { AHEAD } else { need - have };
            self.fill(most, have > 0).await?;
        }
        self.connection.receiving.finished();
        let header = self.inbox.data().get(..need).unwrap_or_default();
        let event = self.connection.session.decode(header);
        self.inbox.consume(need);
        Ok(event)
    }

    /// Receives a payload into one buffer after the other; each goes to the export as soon as it
    /// is full, and no buffer is held while another is waited for.
    async fn write(
        &mut self,
        call: Call,
        fua: bool,
        mut unserved: Unserved<X>,
        slot: OwnedSemaphorePermit,
    ) -> Result<(), End> {
        let connection = self.connection;
        let write = Rc::new(Write::new(call, fua, slot));
        let end = call.at.saturating_add(call.len);
        let mut at = call.at;
        while at < end {
            let stop = connection.cut(at, end);
            let len = usize::try_from(stop - at).unwrap_or(usize::MAX);
            let permit = permit(&connection.payload, len).await;
            let mut buf = connection.pool.take(len, Purpose::Receive).await;
            self.payload(buf.as_mut()).await?;
            connection.count(|counts| counts.bytes_written += stop - at);
            let part = Part {
                at,
                buf,
                unserved: unserved.split(stop - at),
                permit,
                write: Rc::clone(&write),
            };
            connection.jobs.borrow_mut().push_back(Job::Write(part));
            at = stop;
        }
        Ok(())
    }

    async fn payload(&mut self, to: &mut [u8]) -> Result<(), End> {
        let mut filled = self.inbox.move_into(to);
        self.ahead = to.len() <= SMALL;
        if to.len() - filled <= SMALL && self.ahead {
            while filled < to.len() {
                self.fill(AHEAD, true).await?;
                filled += self
                    .inbox
                    .move_into(to.get_mut(filled..).unwrap_or_default());
            }
        }
        while filled < to.len() {
            filled += self
                .receive(to.get_mut(filled..).unwrap_or_default())
                .await?;
        }
        self.connection.receiving.finished();
        Ok(())
    }

    /// Throws a payload away.
    async fn skip(&mut self, len: u64) -> Result<(), End> {
        let mut left = len;
        while left > 0 {
            if self.inbox.data().is_empty() {
                let most = usize::try_from(left).unwrap_or(AHEAD).min(AHEAD);
                self.fill(most, true).await?;
            }
            let there = self.inbox.data().len();
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.inbox.consume(now);
            left -= u64::try_from(now).unwrap_or(left);
        }
        self.connection.receiving.finished();
        Ok(())
    }

    async fn fill(&mut self, most: usize, inside: bool) -> Result<(), End> {
        let connection = self.connection;
        give_way(connection).await;
        let inbox = &mut self.inbox;
        let got = poll_fn(|cx| {
            let got = inbox.poll_fill(cx, &mut *connection.stream.borrow_mut(), most);
            if got.is_pending() && inside {
                connection.receiving.waiting();
            }
            got
        })
        .await;
        arrived(connection, got, inside).map(|_| ())
    }

    async fn receive(&mut self, to: &mut [u8]) -> Result<usize, End> {
        let connection = self.connection;
        give_way(connection).await;
        let got = poll_fn(|cx| {
            let mut buf = ReadBuf::new(to);
            let polled = Pin::new(&mut *connection.stream.borrow_mut()).poll_read(cx, &mut buf);
            if polled.is_pending() {
                connection.receiving.waiting();
            }
            polled.map_ok(|()| buf.filled().len())
        })
        .await;
        arrived(connection, got, true)
    }
}

fn arrived<S, P: BufferPool, X: Export>(
    connection: &Connection<S, P, X>,
    got: std::io::Result<usize>,
    inside: bool,
) -> Result<usize, End> {
    match got {
        Ok(0) if inside => Err(End::Truncated),
        Ok(0) => Err(End::HungUp),
        Ok(len) => {
            connection.receiving.moved(len);
            Ok(len)
        }
        Err(error) => Err(gone(error.kind())),
    }
}

/// Before each call to the system: lets the loop start what was received and send what is ready,
/// so that a batch is what one receive brought.
async fn give_way<S, P: BufferPool, X: Export>(connection: &Connection<S, P, X>) {
    let mut once = false;
    poll_fn(|_| {
        if std::mem::replace(&mut once, true) {
            return Poll::Ready(());
        }
        connection.gave_way.set(true);
        Poll::Pending
    })
    .await;
}

/// Waits for `many` of a semaphore that is never closed and never asked for more than it has.
pub(super) async fn permit(
    semaphore: &Arc<tokio::sync::Semaphore>,
    many: usize,
) -> OwnedSemaphorePermit {
    let many = u32::try_from(many).unwrap_or(u32::MAX);
    match Arc::clone(semaphore).acquire_many_owned(many).await {
        Ok(permit) => permit,
        Err(_closed) => std::future::pending().await,
    }
}
