//! Positioned reads and writes that block: the engine of machines without rings, and of everything
//! that is not on the data path.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, pread, pwrite};

/// Fills `buf` from `at`; zeroes behind the end of the file. With direct I/O in units of `align`
/// the request must be aligned.
pub(super) fn read(fd: &OwnedFd, at: u64, buf: &mut [u8], align: usize) -> io::Result<()> {
    let mut at = at;
    let mut rest = buf;
    while !rest.is_empty() {
        match pread(fd, &mut *rest, at) {
            Ok(0) => break,
            Ok(done) => {
                rest = rest.get_mut(done..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
                // A direct read ends within a unit only at the end of the file, and cannot go on
                // from there.
                if !done.is_multiple_of(align) {
                    break;
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rest.fill(0);
    Ok(())
}

/// Writes all of `buf` at `at`.
pub(super) fn write(fd: &OwnedFd, at: u64, buf: &[u8], align: usize) -> io::Result<()> {
    let mut at = at;
    let mut rest = buf;
    while !rest.is_empty() {
        match pwrite(fd, rest, at) {
            Ok(done) if done == 0 || !done.is_multiple_of(align) && done < rest.len() => {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("storage took {done} of {} bytes", rest.len()),
                ));
            }
            Ok(done) => {
                rest = rest.get(done..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
