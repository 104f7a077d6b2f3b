//! The transmission of one connection: what its parts share, and the loop that polls them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};
use tokio::time::{Duration, Instant, Sleep, sleep_until, timeout};

use super::inbox::Inbox;
use super::outbox::Outbox;
use super::receive::receive;
use super::stall::Stall;
use super::unserved::Unserved;
use super::write::Part;
use super::{Counts, End, Summary};
use crate::buffer::BufferPool;
use crate::error::NbdError;
use crate::export::Export;
use crate::limits::Limits;
use crate::session::{Call, Command, Session};

/// Rounds of one poll; then other connections of the thread get their turn.
const ROUNDS: usize = 16;
/// For the goodbye of the transport.
const GOODBYE: Duration = Duration::from_secs(2);

/// An operation to start.
pub(super) enum Job<B, X: Export> {
    /// One buffer of a WRITE.
    Write(Part<B, X>),
    /// Anything without a payload.
    Call(Call, Unserved<X>, OwnedSemaphorePermit),
}

/// What receiving, working and replying share.
pub(super) struct Connection<S, P: BufferPool, X: Export> {
    pub(super) stream: RefCell<S>,
    pub(super) pool: P,
    pub(super) export: Rc<X>,
    pub(super) session: Session,
    pub(super) limits: Limits,
    pub(super) outbox: RefCell<Outbox<P::Buf>>,
    pub(super) jobs: RefCell<VecDeque<Job<P::Buf, X>>>,
    /// Requests in flight.
    pub(super) requests: Arc<Semaphore>,
    /// Bytes of payloads in flight.
    pub(super) payload: Arc<Semaphore>,
    /// Bytes of replies in flight.
    pub(super) replies: Arc<Semaphore>,
    /// Simple form: shared by READs that fit one buffer, alone for one that is streamed.
    pub(super) order: Arc<RwLock<()>>,
    /// The longest run that is lent or read at once.
    pub(super) slot: usize,
    /// Receiving gave way so that replies of what it received so far can leave.
    pub(super) gave_way: Cell<bool>,
    pub(super) receiving: Stall,
    pub(super) counts: Cell<Counts>,
    /// A reply could not be completed.
    pub(super) fatal: Cell<bool>,
}

impl<S, P, X> Connection<S, P, X>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    pub(super) fn new(
        stream: S,
        pool: P,
        export: Rc<X>,
        session: Session,
        limits: &Limits,
    ) -> Self {
        let slot = pool
            .slot_len()
            .min(limits.receive_bytes)
            .min(limits.reply_bytes);
        // A semaphore of tokio counts in u32 at a time.
        let slot = slot.clamp(1, 1 << 30);
        let semaphore =
            |permits: usize| Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            stream: RefCell::new(stream),
            pool,
            export,
            session,
            outbox: RefCell::new(Outbox::new()),
            jobs: RefCell::new(VecDeque::new()),
            requests: semaphore(limits.requests),
            payload: semaphore(limits.receive_bytes),
            replies: semaphore(limits.reply_bytes),
            order: Arc::new(RwLock::new(())),
            slot,
            gave_way: Cell::new(false),
            receiving: Stall::default(),
            counts: Cell::new(Counts::default()),
            fatal: Cell::new(false),
            limits: limits.clone(),
        }
    }

    /// Runs to the end of the connection.
    pub(super) async fn run(self, inbox: Inbox) -> Summary {
        let this = Rc::new(self);
        let end = this.transmission(inbox).await;
        let goodbye = poll_fn(|cx| Pin::new(&mut *this.stream.borrow_mut()).poll_shutdown(cx));
        // Best effort: the peer may be gone.
        let _ = timeout(GOODBYE, goodbye).await;
        tracing::debug!(nbd.end = %end, nbd.requests = this.counts.get().requests, "connection ended");
        Summary {
            end,
            opened: true,
            counts: this.counts.get(),
        }
    }

    async fn transmission(self: &Rc<Self>, inbox: Inbox) -> End {
        let mut operations = FuturesUnordered::new();
        let mut receive = pin!(Some(receive(self, inbox)));
        let mut end: Option<End> = None;
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut timer_at: Option<Instant> = None;
        let mut drain_until: Option<Instant> = None;
        poll_fn(|cx| {
            for _ in 0..ROUNDS {
                let mut progress = false;
                loop {
                    let Some(job) = self.jobs.borrow_mut().pop_front() else {
                        break;
                    };
                    operations.push(work(Rc::clone(self), job));
                }
                while let Poll::Ready(Some(())) = operations.poll_next_unpin(cx) {
                    progress = true;
                }
                progress |= self.send(cx, &mut end);
                if self.fatal.get() && end.is_none() {
                    end = Some(End::ReadFailed);
                    self.outbox.borrow_mut().kill();
                }
                if end.is_some() {
                    // A half-received payload gives its buffer back now.
                    receive.set(None);
                    self.receiving.finished();
                } else if let Some(receiving) = receive.as_mut().as_pin_mut() {
                    match receiving.poll(cx) {
                        Poll::Ready(why) => {
                            end = Some(why);
                            progress = true;
                        }
                        Poll::Pending => progress |= self.gave_way.take(),
                    }
                }
                // What was received before the end is done before the end.
                progress |= !self.jobs.borrow().is_empty();
                let idle = operations.is_empty() && self.outbox.borrow().is_idle();
                if end.is_some() && idle && !progress {
                    return Poll::Ready(());
                }
                if progress {
                    continue;
                }
                if end.is_some() {
                    let until =
                        drain_until.get_or_insert_with(|| Instant::now() + self.limits.drain);
                    if *until <= Instant::now() {
                        return Poll::Ready(());
                    }
                }
                if !self.overdue(cx, timer.as_mut(), &mut timer_at, drain_until, &mut end) {
                    return Poll::Pending;
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        end.unwrap_or(End::HungUp)
    }

    /// Sends what waits. `true` where that moved something.
    fn send(&self, cx: &mut Context<'_>, end: &mut Option<End>) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        match outbox.poll_send(cx, &mut *self.stream.borrow_mut()) {
            Poll::Ready(Ok(moved)) => moved,
            Poll::Ready(Err(error)) => {
                outbox.kill();
                end.get_or_insert(gone(error.kind()));
                true
            }
            Poll::Pending => false,
        }
    }

    /// Arms the one timer for whatever is due first and looks whether it passed. `true` where it
    /// cut something, so that another round is due.
    fn overdue(
        &self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        timer_at: &mut Option<Instant>,
        drain_until: Option<Instant>,
        end: &mut Option<End>,
    ) -> bool {
        let sending = self.outbox.borrow().stall.deadline(self.limits.stall);
        let receiving = self.receiving.deadline(self.limits.stall);
        let Some(due) = [sending, receiving, drain_until]
            .into_iter()
            .flatten()
            .min()
        else {
            return false;
        };
        // A timer that is set earlier than needed is left alone: it costs one wake-up per limit,
        // setting it anew would cost one call per message.
        if timer_at.is_none_or(|at| at > due) {
            timer.as_mut().reset(due);
            *timer_at = Some(due);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        *timer_at = None;
        let now = Instant::now();
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if passed(sending) {
            self.outbox.borrow_mut().kill();
            end.get_or_insert(End::SendStalled);
        } else if passed(receiving) {
            self.receiving.finished();
            end.get_or_insert(End::ReceiveStalled);
        }
        true
    }

    /// Counts an error and replies it.
    pub(super) fn fail(&self, call: (u64, u64), error: NbdError, why: &str, offset: Option<u64>) {
        self.count(|counts| counts.errors += 1);
        self.outbox.borrow_mut().reply(|out| {
            self.session
                .failure(out, call.0, call.1, error, why, offset);
        });
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// The end of the part that begins at `at` in a range that ends at `end`: as far as one slot
    /// goes, cut on a multiple of the preferred block so that what follows begins on one.
    pub(super) fn cut(&self, at: u64, end: u64) -> u64 {
        let slot = u64::try_from(self.slot).unwrap_or(u64::MAX);
        if end - at <= slot {
            return end;
        }
        let preferred = u64::from(self.export.info().block_size.preferred).max(1);
        // Clusters longer than a slot are cut on multiples of the slot instead.
        let unit = if preferred <= slot {
            preferred
        } else {
            1 << slot.ilog2()
        };
        let stop = at.saturating_add(slot);
        let stop = stop - stop % unit;
        if stop > at {
            stop
        } else {
            at.saturating_add(slot)
        }
    }
}

/// How a failed transport reads in the summary.
pub(super) fn gone(kind: std::io::ErrorKind) -> End {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match kind {
        BrokenPipe | ConnectionReset | UnexpectedEof => End::HungUp,
        other => End::Transport(other),
    }
}

async fn work<S, P, X>(connection: Rc<Connection<S, P, X>>, job: Job<P::Buf, X>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    let (call, unserved, _slot) = match job {
        Job::Write(part) => return connection.write_part(part).await,
        Job::Call(call, unserved, slot) => (call, unserved, slot),
    };
    unserved.served();
    let export = &connection.export;
    let (result, fua) = match call.command {
        Command::Read { .. } => return connection.read(&call).await,
        Command::Status { one } => return connection.status(&call, one).await,
        Command::Zero { flags, fua } => (export.write_zeroes(call.at, call.len, flags).await, fua),
        Command::Trim { fua } => (export.trim(call.at, call.len).await, fua),
        Command::Flush => (export.flush().await, false),
        // Its payload comes as parts.
        Command::Write { .. } => return,
    };
    connection.finish(&call, result, fua).await;
}

impl<S, P, X> Connection<S, P, X>
where
    S: AsyncRead + AsyncWrite + Unpin,
    P: BufferPool,
    X: Export<Buf = P::Buf>,
{
    /// Flushes where asked, then replies.
    pub(super) async fn finish(&self, call: &Call, result: Result<(), NbdError>, fua: bool) {
        let result = match result {
            Ok(()) if fua => self.export.flush().await,
            other => other,
        };
        match result {
            Ok(()) => self.outbox.borrow_mut().reply(|out| {
                self.session.success(out, call.cookie, call.at, false);
            }),
            Err(error) => self.fail((call.cookie, call.at), error, &error.to_string(), None),
        }
    }
}
