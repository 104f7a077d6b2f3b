//! Making the kernel's ring: the best flags that this kernel knows, the operations that we need,
//! the eventfd, the registered memory.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode};

use crate::pool::SharedPool;

/// The longest run of memory that can be registered as one buffer.
const MAX_REGISTERED: usize = 1 << 30;

/// The pool whose memory is buffer 0 of a ring.
pub(super) struct Registered {
    pool: Arc<SharedPool>,
}

impl Registered {
    /// The addresses that buffer 0 stands for.
    pub(super) fn span(&self) -> Range<usize> {
        let (base, len) = self.pool.region();
        base..base.saturating_add(len)
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered")
            .field(&self.span().len())
            .finish()
    }
}

/// A ring that was seen to work. With `one_thread` only the calling thread will ever enter it.
pub(super) fn build(entries: u32, one_thread: bool) -> io::Result<IoUring> {
    let entries = entries.clamp(8, 4096);
    let mut ring = with_best_flags(entries, one_thread)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
    ];
    if !needed.iter().all(|code| probe.is_supported(*code)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    turn_once(&mut ring)?;
    Ok(ring)
}

fn with_best_flags(entries: u32, one_thread: bool) -> io::Result<IoUring> {
    let completions = entries * 4;
    let mut attempts: Vec<fn(&mut io_uring::Builder)> = Vec::new();
    if one_thread {
        // Completions are finished when we ask, in a batch, and nobody interrupts us for them.
        attempts.push(|b| {
            b.setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all();
        });
        attempts.push(|b| {
            b.setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all();
        });
    }
    attempts.push(|_| {});
    let mut refused = io::Error::from(io::ErrorKind::Unsupported);
    for attempt in attempts {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(completions);
        attempt(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            // An older kernel does not know the flags.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// One operation that does nothing: a sandbox may allow the set-up and refuse the rest.
fn turn_once(ring: &mut IoUring) -> io::Result<()> {
    let nothing = opcode::Nop::new().build();
    // JUSTIFICATION: the queue takes raw entries; no safe form exists.
    // SAFETY: this entry refers to no memory and no descriptor.
    unsafe { ring.submission().push(&nothing) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(answer) if answer.result() == 0 => Ok(()),
        Some(answer) => Err(io::Error::from_raw_os_error(
            answer.result().saturating_neg(),
        )),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The descriptor that the kernel signals when completions are there.
pub(super) fn bell(ring: &IoUring) -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    ring.submitter().register_eventfd(bell.as_raw_fd())?;
    Ok(bell)
}

/// Registers the pool's memory, so that the kernel need not map it for each operation. It counts
/// against RLIMIT_MEMLOCK; where that is too low, all works without.
pub(super) fn register(ring: &IoUring, pool: &Arc<SharedPool>) -> Option<Registered> {
    let (base, len) = pool.region();
    if len > MAX_REGISTERED {
        return None;
    }
    let memory = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(base),
        iov_len: len,
    };
    // JUSTIFICATION: registration takes raw addresses; no safe form exists.
    // SAFETY: the span is one live allocation, and `Registered`, which the ring keeps until it is
    // closed, keeps it. Registering does not access it: each operation names its own part, whose
    // buffer the ring owns meanwhile.
    let done = unsafe { ring.submitter().register_buffers(&[memory]) };
    match done {
        Ok(()) => Some(Registered {
            pool: Arc::clone(pool),
        }),
        Err(error) => {
            tracing::debug!(%error, len, "buffers are not registered with the I/O ring");
            None
        }
    }
}
