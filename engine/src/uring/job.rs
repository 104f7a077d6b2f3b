//! One request: what it owns, and how far each of its parts is.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;

use io_uring::{opcode, squeue, types};

use crate::pool::IoBuf;

/// The kernel takes lengths of 32 bits and cuts them below 2 GiB.
const MAX_LEN: usize = 1 << 30;

/// How often in a row a part may be told to try again without any progress.
const MAX_RETRIES: u32 = 64;

/// A contiguous run of the file and the bytes of the buffer's memory that belong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) at: u64,
    pub(crate) range: Range<usize>,
}

/// What a job does, with the buffer that it does it with.
pub(super) enum Work {
    Read(IoBuf),
    Write(IoBuf),
    Sync,
}

/// One request.
pub(super) struct Job {
    file: Arc<OwnedFd>,
    work: Work,
    /// What is left to do of each part.
    parts: Vec<Part>,
    retries: u32,
    align: usize,
    /// Parts that have not ended.
    open: usize,
    result: io::Result<()>,
    pub(super) waker: Option<Waker>,
    /// Nobody waits any more.
    pub(super) orphan: bool,
}

/// What a completion means for a part.
pub(super) enum Step {
    /// It has to go to the kernel again for the rest.
    Again,
    /// It has ended.
    Ended,
}

impl Job {
    pub(super) fn new(file: Arc<OwnedFd>, work: Work, parts: Vec<Part>, align: usize) -> Self {
        let open = parts.len();
        Self {
            file,
            work,
            parts,
            retries: 0,
            align: align.max(1),
            open,
            result: Ok(()),
            waker: None,
            orphan: false,
        }
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether all parts have ended.
    pub(super) fn ended(&self) -> bool {
        self.open == 0
    }

    /// Ends a part that never reaches the kernel.
    pub(super) fn fail(&mut self, error: io::Error) {
        self.open = self.open.saturating_sub(1);
        if self.result.is_ok() {
            self.result = Err(error);
        }
    }

    /// What the waiter gets.
    pub(super) fn into_output(self) -> (IoBuf, io::Result<()>) {
        let buf = match self.work {
            Work::Read(buf) | Work::Write(buf) => buf,
            Work::Sync => IoBuf::heap(0),
        };
        (buf, self.result)
    }

    /// The submission for what is left of a part; `None` for a part outside of the buffer.
    /// `registered` is the memory that buffer 0 of the ring stands for.
    pub(super) fn entry(
        &mut self,
        index: usize,
        registered: &Range<usize>,
    ) -> Option<squeue::Entry> {
        let fd = types::Fd(self.file.as_raw_fd());
        let part = self.parts.get(index)?;
        let (buf, writes) = match &mut self.work {
            Work::Read(buf) => (buf, false),
            Work::Write(buf) => (buf, true),
            Work::Sync => {
                let flags = types::FsyncFlags::DATASYNC;
                return Some(opcode::Fsync::new(fd).flags(flags).build());
            }
        };
        let memory = buf.whole_mut().get_mut(part.range.clone())?;
        let len = u32::try_from(memory.len().min(MAX_LEN)).ok()?;
        let start = memory.as_mut_ptr();
        let fixed = start.addr() >= registered.start
            && start.addr().saturating_add(memory.len()) <= registered.end;
        Some(match (writes, fixed) {
            (false, false) => opcode::Read::new(fd, start, len).offset(part.at).build(),
            (false, true) => opcode::ReadFixed::new(fd, start, len, 0)
                .offset(part.at)
                .build(),
            (true, false) => opcode::Write::new(fd, start, len).offset(part.at).build(),
            (true, true) => opcode::WriteFixed::new(fd, start, len, 0)
                .offset(part.at)
                .build(),
        })
    }

    /// Takes in what the kernel answered for a part.
    pub(super) fn complete(&mut self, index: usize, answer: i32) -> Step {
        match self.take_in(index, answer) {
            Ok(Step::Again) => Step::Again,
            Ok(Step::Ended) => {
                self.open = self.open.saturating_sub(1);
                Step::Ended
            }
            Err(error) => {
                self.fail(error);
                Step::Ended
            }
        }
    }

    fn take_in(&mut self, index: usize, answer: i32) -> io::Result<Step> {
        let Ok(done) = usize::try_from(answer) else {
            let error = io::Error::from_raw_os_error(answer.saturating_neg());
            let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
            self.retries += 1;
            if again && self.retries <= MAX_RETRIES && !self.orphan {
                return Ok(Step::Again);
            }
            return Err(error);
        };
        self.retries = 0;
        let Some(part) = self.parts.get_mut(index) else {
            return Ok(Step::Ended);
        };
        let len = part.range.len();
        part.range.start += done.min(len);
        part.at = part
            .at
            .saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        let left = part.range.clone();
        // Direct I/O cannot go on from the middle of its unit.
        let cut = done % self.align != 0;
        match &mut self.work {
            Work::Sync => Ok(Step::Ended),
            _ if left.is_empty() => Ok(Step::Ended),
            // A read ends early only at the end of the file.
            Work::Read(buf) if done == 0 || cut => {
                if let Some(behind) = buf.whole_mut().get_mut(left) {
                    behind.fill(0);
                }
                Ok(Step::Ended)
            }
            Work::Write(_) if done == 0 || cut => Err(io::Error::new(
                io::ErrorKind::WriteZero,
                format!(
                    "storage took only a part of a write: {} bytes are left",
                    left.len()
                ),
            )),
            _ if self.orphan => Ok(Step::Ended),
            _ => Ok(Step::Again),
        }
    }
}
