//! Whether a file is read and written directly, past the page cache, and in which units.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, fstatfs, ioctl_blksszget,
    statx,
};

use crate::pool::ALIGN;

/// File systems whose direct I/O is known to be what it says. Others accept the flag and go
/// through the page cache all the same (tmpfs, btrfs with checksums, overlays, network ones), or
/// are slower with it.
const GOOD: [u64; 2] = [0xef53 /* ext4 */, 0x5846_5342 /* XFS */];

/// The units of direct I/O, powers of two of at most [`ALIGN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// Of addresses in memory.
    pub(super) memory: usize,
    /// Of offsets and lengths in the file.
    pub(super) offset: usize,
}

impl Unit {
    /// The unit as an offset.
    pub(super) fn wide(self) -> u64 {
        u64::try_from(self.offset).unwrap_or(u64::MAX)
    }

    /// Whether a request is aligned in the file.
    pub(super) fn fits(self, at: u64, len: usize) -> bool {
        at.is_multiple_of(self.wide()) && len.is_multiple_of(self.offset)
    }

    /// Whether an address, or an offset from an aligned start, is aligned in memory.
    pub(super) fn fits_memory(self, address: usize) -> bool {
        address.is_multiple_of(self.memory)
    }
}

/// Takes a descriptor out of its non-blocking opening, to direct I/O where that is good.
pub(super) fn settle(fd: &OwnedFd, kind: FileType) -> io::Result<Option<Unit>> {
    let flags = fcntl_getfl(fd)?.difference(OFlags::NONBLOCK);
    if let Some(unit) = unit(fd, kind)?
        && fcntl_setfl(fd, flags | OFlags::DIRECT).is_ok()
    {
        return Ok(Some(unit));
    }
    fcntl_setfl(fd, flags)?;
    Ok(None)
}

fn unit(fd: &OwnedFd, kind: FileType) -> io::Result<Option<Unit>> {
    if kind != FileType::BlockDevice {
        let magic = fstatfs(fd)?.f_type;
        if !u64::try_from(magic).is_ok_and(|magic| GOOD.contains(&magic)) {
            return Ok(None);
        }
    }
    let told = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let (memory, offset) = match told {
        Ok(told) if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            (told.stx_dio_mem_align, told.stx_dio_offset_align)
        }
        // A kernel before 6.1, or a device before 6.11.
        _ if kind == FileType::BlockDevice => {
            let sector = ioctl_blksszget(fd)?;
            (sector, sector)
        }
        _ => (4096, 4096),
    };
    let good = |unit: u32| {
        usize::try_from(unit)
            .ok()
            .filter(|unit| unit.is_power_of_two() && *unit <= ALIGN)
    };
    // 0 means that this file cannot (encrypted, verified, ...).
    Ok(good(memory)
        .zip(good(offset))
        .map(|(memory, offset)| Unit { memory, offset }))
}
