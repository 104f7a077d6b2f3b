//! The kernel's ring and the jobs that are in it.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::task::Waker;

use io_uring::IoUring;

use super::job::{Job, Step};
use super::setup::Registered;
use crate::pool::IoBuf;

/// One part of one job.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    job: u32,
    part: u32,
}

impl Ticket {
    fn user_data(self) -> u64 {
        u64::from(self.job) << 32 | u64::from(self.part)
    }

    fn from_user_data(data: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self {
            job: half(data >> 32),
            part: half(data),
        }
    }
}

/// The jobs of one thread and their way through the kernel.
pub(super) struct Ring {
    kernel: IoUring,
    /// Slots of jobs; a slot is free again when its job has ended and was taken.
    jobs: Vec<Option<Job>>,
    vacant: Vec<usize>,
    /// Parts that have not been pushed yet.
    queue: VecDeque<Ticket>,
    /// Parts that were pushed and have not been completed.
    in_kernel: usize,
    /// Of these, in order, the ones that the kernel has not fetched from the queue yet.
    unfetched: VecDeque<Ticket>,
    /// The most parts that may be in the kernel: what the completion queue holds.
    limit: usize,
    /// Set for ever once the kernel refuses to be entered.
    broken: Option<i32>,
    /// Keeps the registered memory for as long as the ring.
    registered: Option<Registered>,
}

impl Ring {
    pub(super) fn new(kernel: IoUring, registered: Option<Registered>) -> Self {
        let limit = usize::try_from(kernel.params().cq_entries()).unwrap_or(usize::MAX);
        Self {
            kernel,
            jobs: Vec::new(),
            vacant: Vec::new(),
            queue: VecDeque::new(),
            in_kernel: 0,
            unfetched: VecDeque::new(),
            limit,
            broken: None,
            registered,
        }
    }

    pub(super) fn registered(&self) -> bool {
        self.registered.is_some()
    }

    /// Whether nothing is under way that could still end.
    pub(super) fn idle(&self) -> bool {
        self.broken.is_some() || self.in_kernel == 0 && self.queue.is_empty()
    }

    /// Takes a job in and returns its key. With `stopped` it fails at once.
    pub(super) fn add(&mut self, mut job: Job, stopped: bool) -> usize {
        let key = self.vacant.pop().unwrap_or(self.jobs.len());
        let parts = u32::try_from(job.parts()).unwrap_or(u32::MAX);
        match u32::try_from(key) {
            Ok(number) if !stopped && self.broken.is_none() => {
                self.queue
                    .extend((0..parts).map(|part| Ticket { job: number, part }));
            }
            _ => (0..parts).for_each(|_| job.fail(self.refusal())),
        }
        match self.jobs.get_mut(key) {
            Some(slot) => *slot = Some(job),
            None => self.jobs.push(Some(job)),
        }
        key
    }

    fn refusal(&self) -> io::Error {
        match self.broken {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other("the I/O thread has ended"),
        }
    }

    /// The outcome of a job that has ended; else remembers whom to wake.
    pub(super) fn poll(&mut self, key: usize, waker: &Waker) -> Option<(IoBuf, io::Result<()>)> {
        let slot = self.jobs.get_mut(key)?;
        let job = slot.as_mut()?;
        if let Some(errno) = self.broken.filter(|_| !job.ended()) {
            // It may never end. What the kernel still has stays here; the waiter gets another.
            job.orphan = true;
            return Some((IoBuf::heap(0), Err(io::Error::from_raw_os_error(errno))));
        }
        if !job.ended() {
            match &mut job.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
            return None;
        }
        let job = slot.take()?;
        self.vacant.push(key);
        Some(job.into_output())
    }

    /// Nobody waits for this job any more: gives it back if it has ended, else keeps it until
    /// then.
    pub(super) fn abandon(&mut self, key: usize) -> Option<Job> {
        let slot = self.jobs.get_mut(key)?;
        let job = slot.as_mut()?;
        if !job.ended() {
            job.orphan = true;
            job.waker = None;
            return None;
        }
        self.vacant.push(key);
        slot.take()
    }

    /// Passes on what is queued, in one call for all of it, and takes in what has completed.
    /// Tells whom to wake, and lets go of what nobody waits for. Returns whether the kernel was
    /// out of resources, so that another turn is due without anything to wait for.
    pub(super) fn turn(&mut self, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) -> bool {
        loop {
            let pushed = self.push_queued(wake, ended);
            if self.broken.is_none() {
                self.enter(wake, ended);
            }
            let completed = self.take_completions(wake, ended);
            if pushed + completed == 0 {
                return !self.unfetched.is_empty();
            }
        }
    }

    /// One call to the kernel: it fetches what was pushed and, where completions are deferred,
    /// finishes them.
    fn enter(&mut self, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) {
        let entered = self.kernel.submit();
        let left = self.kernel.submission().len();
        while self.unfetched.len() > left {
            self.unfetched.pop_front();
        }
        if let Err(error) = entered {
            self.meet(&error, wake, ended);
        }
    }

    fn push_queued(&mut self, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) -> usize {
        let span = self.registered.as_ref().map_or(0..0, Registered::span);
        let mut pushed = 0;
        while self.in_kernel < self.limit && !self.kernel.submission().is_full() {
            let Some(ticket) = self.queue.pop_front() else {
                break;
            };
            match self.push(ticket, &span) {
                Ok(()) => pushed += 1,
                Err(error) => self.fail(ticket, error, wake, ended),
            }
        }
        pushed
    }

    fn push(&mut self, ticket: Ticket, registered: &Range<usize>) -> io::Result<()> {
        let (key, part) = place(ticket);
        let job = self.jobs.get_mut(key).and_then(Option::as_mut);
        let entry = job
            .and_then(|job| job.entry(part, registered))
            .ok_or(io::ErrorKind::InvalidInput)?
            .user_data(ticket.user_data());
        // JUSTIFICATION: the queue takes raw addresses; no safe form exists.
        // SAFETY: the entry names a descriptor and memory that the job owns. The job stays in its
        // slot, untouched, until the completion of every pushed part: `poll` and `abandon` take
        // only jobs that have ended, and `drop` waits or leaks. The memory is on the heap, so
        // moving the job does not move it.
        unsafe { self.kernel.submission().push(&entry) }.map_err(io::Error::other)?;
        self.in_kernel += 1;
        self.unfetched.push_back(ticket);
        Ok(())
    }

    /// The kernel did not take the submissions.
    fn meet(&mut self, error: &io::Error, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        // Out of resources for a moment: completions will come, and then we try again.
        if matches!(errno, libc::EINTR | libc::EAGAIN | libc::EBUSY) {
            return;
        }
        tracing::error!(error = %error, "the kernel refuses the I/O ring: its operations fail");
        self.broken = Some(errno);
        // What was not fetched never will be: nobody enters a broken ring.
        self.in_kernel = self.in_kernel.saturating_sub(self.unfetched.len());
        let unfetched = std::mem::take(&mut self.unfetched);
        for ticket in unfetched.into_iter().chain(std::mem::take(&mut self.queue)) {
            self.fail(ticket, io::Error::from_raw_os_error(errno), wake, ended);
        }
        wake.extend(
            self.jobs
                .iter_mut()
                .flatten()
                .filter_map(|job| job.waker.take()),
        );
    }

    fn fail(
        &mut self,
        ticket: Ticket,
        error: io::Error,
        wake: &mut Vec<Waker>,
        ended: &mut Vec<Job>,
    ) {
        let (key, _) = place(ticket);
        if let Some(job) = self.jobs.get_mut(key).and_then(Option::as_mut) {
            job.fail(error);
        }
        self.settle(key, wake, ended);
    }

    fn take_completions(&mut self, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) -> usize {
        let mut taken = 0;
        loop {
            let Some(answer) = self.kernel.completion().next() else {
                return taken;
            };
            taken += 1;
            self.in_kernel = self.in_kernel.saturating_sub(1);
            let ticket = Ticket::from_user_data(answer.user_data());
            let (key, part) = place(ticket);
            let job = self.jobs.get_mut(key).and_then(Option::as_mut);
            match job.map(|job| job.complete(part, answer.result())) {
                Some(Step::Again) if self.broken.is_none() => self.queue.push_back(ticket),
                Some(Step::Again) => self.fail(ticket, self.refusal(), wake, ended),
                Some(Step::Ended) => self.settle(key, wake, ended),
                None => {}
            }
        }
    }

    /// Wakes the waiter of a job that has ended, or lets an abandoned one go.
    fn settle(&mut self, key: usize, wake: &mut Vec<Waker>, ended: &mut Vec<Job>) {
        let Some(slot) = self.jobs.get_mut(key) else {
            return;
        };
        match slot {
            Some(job) if job.ended() && job.orphan => {
                ended.extend(slot.take());
                self.vacant.push(key);
            }
            Some(job) if job.ended() => wake.extend(job.waker.take()),
            _ => {}
        }
    }
}

/// Where a ticket's job and part are; the conversions hold on every machine with rings.
fn place(ticket: Ticket) -> (usize, usize) {
    let wide = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    (wide(ticket.job), wide(ticket.part))
}

impl Drop for Ring {
    /// Waits for everything that is in the kernel, since it reads and writes our memory.
    fn drop(&mut self) {
        self.queue.clear();
        while self.in_kernel > 0 {
            let waited = match self.broken {
                None => self.kernel.submit_and_wait(1),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            };
            let before = self.in_kernel;
            // What comes back short is not continued: `queue` is only looked at by `turn`.
            self.take_completions(&mut Vec::new(), &mut Vec::new());
            let stuck = self.in_kernel == before;
            if waited.is_err_and(|e| stuck && e.kind() != io::ErrorKind::Interrupted) {
                // We cannot wait, so the memory must stay where the kernel finds it: leak it.
                std::mem::forget(std::mem::take(&mut self.jobs));
                std::mem::forget(self.registered.take());
                return;
            }
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("in_kernel", &self.in_kernel)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
