//! One open file or block device of this machine.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    FallocateFlags, FileType, SeekFrom, fallocate, fdatasync, fstat, ftruncate, seek,
};
use rustix::io::Errno;

use super::direct::{self, Unit};
use super::gate::Gate;
use super::{engine, plain};
use crate::io::Io;
use crate::pool::{ALIGN, IoBuf};
use crate::storage::{Extent, File, LocalBoxFuture, LockKind, WriteRun};
use crate::sys::locks;
use crate::uring::Part;

/// How much a bounced request moves at a time.
const BOUNCE: usize = 1 << 20;

/// The granularity in which holes are made; finer edges are written as zeroes.
const HOLE: u64 = 4096;

/// One open file description. See [`File`].
#[derive(Debug)]
pub(super) struct LocalFile {
    open: Arc<Open>,
}

/// What a helper thread needs of it.
#[derive(Debug)]
struct Open {
    fd: Arc<OwnedFd>,
    /// Whether it is a block device.
    device: bool,
    /// The units of direct I/O; `None` for the page cache.
    direct: Option<Unit>,
    gate: Gate,
    writable: bool,
    held: Mutex<Option<LockKind>>,
}

impl LocalFile {
    /// Takes over a descriptor opened with [`super::open_flags`].
    pub(super) fn new(fd: OwnedFd, writable: bool, devices: bool) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        let device = match kind {
            FileType::RegularFile => false,
            FileType::BlockDevice if devices => true,
            FileType::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {
                let text = "it is neither a regular file nor, where those may be, a block device";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        let direct = direct::settle(&fd, kind)?;
        let open = Open {
            fd: Arc::new(fd),
            device,
            direct,
            gate: Gate::default(),
            writable,
            held: Mutex::new(None),
        };
        Ok(Self {
            open: Arc::new(open),
        })
    }

    #[cfg(test)]
    pub(super) fn is_direct(&self) -> bool {
        self.open.direct.is_some()
    }
}

/// A request widened to whole units.
struct Frame {
    start: u64,
    len: usize,
    /// Bytes before the request.
    head: usize,
    /// Whether the request leaves out a part of the frame.
    partial: bool,
}

impl Frame {
    fn around(at: u64, len: usize, unit: Unit) -> io::Result<Self> {
        let head = usize::try_from(at % unit.wide()).map_err(io::Error::other)?;
        let whole = head
            .checked_add(len)
            .and_then(|len| len.checked_next_multiple_of(unit.offset))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let start = at - at % unit.wide();
        Ok(Self {
            start,
            len: whole,
            head,
            partial: whole != len,
        })
    }

    fn end(&self) -> u64 {
        end(self.start, self.len)
    }
}

fn end(at: u64, len: usize) -> u64 {
    at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX))
}

impl Open {
    fn align(&self) -> usize {
        self.direct.map_or(1, |unit| unit.offset)
    }

    fn len(&self) -> io::Result<u64> {
        // Asked for each time: devices are resized too.
        if self.device {
            return Ok(seek(&*self.fd, SeekFrom::End(0))?);
        }
        u64::try_from(fstat(&*self.fd)?.st_size).map_err(io::Error::other)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(unit) = self.direct else {
            return plain::read(&self.fd, at, buf, 1);
        };
        if unit.fits(at, buf.len()) && unit.fits_memory(buf.as_ptr().addr()) {
            return plain::read(&self.fd, at, buf, unit.offset);
        }
        let mut at = at;
        let mut bounce = IoBuf::heap(BOUNCE.min(buf.len().saturating_add(2 * ALIGN)));
        for piece in buf.chunks_mut(BOUNCE - 2 * ALIGN) {
            let frame = Frame::around(at, piece.len(), unit)?;
            let memory = bounce.whole_mut().get_mut(..frame.len).unwrap_or_default();
            plain::read(&self.fd, frame.start, memory, unit.offset)?;
            let wanted = memory.get(frame.head..frame.head + piece.len());
            piece.copy_from_slice(wanted.ok_or(io::ErrorKind::InvalidInput)?);
            at = end(at, piece.len());
        }
        Ok(())
    }

    fn write(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        let Some(unit) = self.direct else {
            return plain::write(&self.fd, at, buf, 1);
        };
        if unit.fits(at, buf.len()) && unit.fits_memory(buf.as_ptr().addr()) {
            let _pass = self.gate.together_blocking(at..end(at, buf.len()));
            return plain::write(&self.fd, at, buf, unit.offset);
        }
        let mut at = at;
        let mut rest = buf;
        let mut bounce = IoBuf::heap(BOUNCE.min(buf.len().saturating_add(2 * ALIGN)));
        while !rest.is_empty() {
            // After the first piece all begin on a unit.
            let head = usize::try_from(at % unit.wide()).map_err(io::Error::other)?;
            let (piece, behind) = rest.split_at(rest.len().min(BOUNCE - ALIGN - head));
            self.write_bounced(at, piece, bounce.whole_mut(), unit)?;
            at = end(at, piece.len());
            rest = behind;
        }
        Ok(())
    }

    /// Writes through `bounce`, which has room for the piece widened to whole units.
    fn write_bounced(
        &self,
        at: u64,
        piece: &[u8],
        bounce: &mut [u8],
        unit: Unit,
    ) -> io::Result<()> {
        let frame = Frame::around(at, piece.len(), unit)?;
        let memory = bounce
            .get_mut(..frame.len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let wanted = frame.head..frame.head + piece.len();
        if !frame.partial {
            memory
                .get_mut(wanted)
                .ok_or(io::ErrorKind::InvalidInput)?
                .copy_from_slice(piece);
            let _pass = self.gate.together_blocking(frame.start..frame.end());
            return plain::write(&self.fd, frame.start, memory, unit.offset);
        }
        // Whole units behind the end make the file longer than it was asked to be, so it is cut
        // afterwards; meanwhile nobody may write behind us.
        let grows = !self.device && frame.end() > self.len()?;
        let last = if grows { u64::MAX } else { frame.end() };
        let _pass = self.gate.alone(frame.start..last);
        let first_unit = memory
            .get_mut(..unit.offset)
            .ok_or(io::ErrorKind::InvalidInput)?;
        plain::read(&self.fd, frame.start, first_unit, unit.offset)?;
        let tail = frame.len - unit.offset;
        if tail > 0 {
            let last_unit = memory.get_mut(tail..).ok_or(io::ErrorKind::InvalidInput)?;
            plain::read(&self.fd, end(frame.start, tail), last_unit, unit.offset)?;
        }
        let len = self.len()?.max(end(at, piece.len()));
        memory
            .get_mut(wanted)
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(piece);
        let written = plain::write(&self.fd, frame.start, memory, unit.offset);
        if grows && self.len()? > len {
            ftruncate(&*self.fd, len)?;
        }
        written
    }

    fn write_parts(&self, buf: &IoBuf, runs: &[WriteRun]) -> io::Result<()> {
        runs.iter().try_for_each(|run| {
            let bytes = buf
                .as_ref()
                .get(run.part.clone())
                .ok_or(io::ErrorKind::InvalidInput)?;
            self.write(run.at, bytes)
        })
    }
}

impl File for LocalFile {
    fn read_at<'a>(
        &'a self,
        io: &'a Io,
        at: u64,
        buf: IoBuf,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        let open = &*self.open;
        Box::pin(async move {
            let len = buf.len();
            if len == 0 {
                return (buf, Ok(()));
            }
            let Some(unit) = open.direct else {
                return engine::read(io, &open.fd, buf, Part { at, range: 0..len }, 1).await;
            };
            // Buffers begin aligned and have room up to a whole unit.
            let frame = match Frame::around(at, len, unit) {
                Ok(frame) => frame,
                Err(error) => return (buf, Err(error)),
            };
            let part = Part {
                at: frame.start,
                range: 0..frame.len,
            };
            if frame.head == 0 && frame.len <= buf.capacity() {
                return engine::read(io, &open.fd, buf, part, unit.offset).await;
            }
            let mut buf = buf;
            let bounce = IoBuf::heap(frame.len);
            let (bounce, result) = engine::read(io, &open.fd, bounce, part, unit.offset).await;
            match bounce.as_ref().get(frame.head..frame.head + len) {
                Some(bytes) => buf.as_mut().copy_from_slice(bytes),
                None => return (buf, result.and(Err(io::ErrorKind::InvalidInput.into()))),
            }
            (buf, result)
        })
    }

    fn write_runs<'a>(
        &'a self,
        io: &'a Io,
        buf: IoBuf,
        mut runs: Vec<WriteRun>,
    ) -> LocalBoxFuture<'a, (IoBuf, io::Result<()>)> {
        let open = &*self.open;
        Box::pin(async move {
            if runs
                .iter()
                .any(|run| buf.as_ref().get(run.part.clone()).is_none())
            {
                return (buf, Err(io::ErrorKind::InvalidInput.into()));
            }
            runs.retain(|run| !run.part.is_empty());
            if let Some(unit) = open.direct {
                let fits = |run: &WriteRun| {
                    unit.fits(run.at, run.part.len()) && unit.fits_memory(run.part.start)
                };
                if !runs.iter().all(fits) {
                    // On a helper thread, so that it ends whatever becomes of this future: a unit
                    // must not be written back after the gate was left.
                    let open = Arc::clone(&self.open);
                    return engine::blocking(io, move || {
                        let result = open.write_parts(&buf, &runs);
                        (buf, result)
                    })
                    .await;
                }
            }
            let from = runs.iter().map(|run| run.at).min().unwrap_or(0);
            let to = runs
                .iter()
                .map(|run| end(run.at, run.part.len()))
                .max()
                .unwrap_or(0);
            let _pass = match open.direct {
                Some(_) => Some(open.gate.together(from..to).await),
                None => None,
            };
            let parts = runs
                .into_iter()
                .map(|run| Part {
                    at: run.at,
                    range: run.part,
                })
                .collect();
            engine::write(io, &open.fd, buf, parts, open.align()).await
        })
    }

    fn sync<'a>(&'a self, io: &'a Io) -> LocalBoxFuture<'a, io::Result<()>> {
        Box::pin(engine::sync(io, &self.open.fd))
    }

    fn read_at_blocking(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.open.read(at, buf)
    }

    fn write_at_blocking(&self, at: u64, buf: &[u8]) -> io::Result<()> {
        self.open.write(at, buf)
    }

    fn sync_blocking(&self) -> io::Result<()> {
        Ok(fdatasync(&*self.open.fd)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.open.device {
            return Ok(ftruncate(&*self.open.fd, len)?);
        }
        if self.open.len()? == len {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a block device cannot be cut or extended",
        ))
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&*self.open.fd)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn len(&self) -> io::Result<u64> {
        self.open.len()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<bool> {
        if len == 0 {
            return Ok(true);
        }
        if self.open.device {
            return Ok(false);
        }
        // Never the C library's posix_fallocate, which writes where the kernel cannot.
        supported(|| fallocate(&*self.open.fd, FallocateFlags::empty(), at, len))
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<bool> {
        if !self.open.writable {
            return Err(Errno::BADF.into());
        }
        let to = at.saturating_add(len).min(self.open.len()?);
        if to <= at {
            return Ok(true);
        }
        let (first, last) = (at.next_multiple_of(HOLE).min(to), (to - to % HOLE).max(at));
        if first < last {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if !supported(|| fallocate(&*self.open.fd, flags, first, last - first))? {
                return Ok(false);
            }
        }
        let edges = if first < last {
            [(at, first), (last, to)]
        } else {
            [(at, to), (to, to)]
        };
        for (from, to) in edges {
            if from < to {
                // Shorter than two holes' granularity.
                let len = usize::try_from(to - from).map_err(io::Error::other)?;
                self.open.write(from, IoBuf::heap(len).as_ref())?;
            }
        }
        Ok(true)
    }

    fn extents(&self, at: u64, len: u64) -> io::Result<Vec<Extent>> {
        let fd = &*self.open.fd;
        let to = at.saturating_add(len);
        let size = self.open.len()?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut push = |from: u64, to: u64, hole: bool| match extents.last_mut() {
            _ if from >= to => {}
            Some(last) if last.hole == hole => last.len += to - from,
            _ => extents.push(Extent {
                at: from,
                len: to - from,
                hole,
            }),
        };
        let mut done = at;
        while done < to.min(size) {
            let data = match seek(fd, SeekFrom::Data(done)) {
                Ok(data) => data.clamp(done, to),
                // No data up to the end.
                Err(Errno::NXIO) => break,
                // The file system, or a device, cannot tell.
                Err(Errno::INVAL | Errno::NOTSUP) => {
                    push(done, size.min(to), false);
                    done = size.min(to);
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            push(done, data, true);
            let hole = match seek(fd, SeekFrom::Hole(data)) {
                Ok(hole) if hole > data => hole.min(to),
                // The file was cut meanwhile.
                Ok(_) | Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            push(data, hole, false);
            done = hole;
        }
        push(done, to, true);
        Ok(extents)
    }

    fn lock(&self, kind: LockKind) -> io::Result<()> {
        let mut held = self
            .open
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks::acquire(self.open.fd.as_fd(), kind, *held)?;
        *held = Some(kind);
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        let mut held = self
            .open
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks::release(self.open.fd.as_fd())?;
        *held = None;
        Ok(())
    }
}

/// Runs a call; `Ok(false)` where the file system does not know it.
fn supported(call: impl Fn() -> Result<(), Errno>) -> io::Result<bool> {
    loop {
        match call() {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
