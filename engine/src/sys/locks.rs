//! QEMU's image locks: bytes of the file, locked for the open file description (OFD).
//!
//! ```text
//! byte 100 + i   "I use permission i"            0 consistent read   1 write
//! byte 200 + i   "I do not share permission i"   2 write unchanged   3 resize
//! ```
//! All locks are shared ones and only say that a byte is taken. Whoever takes some then tests
//! whether another description holds what contradicts them, and gives back on a conflict: so two
//! that come at once may both fail, never both succeed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::storage::LockKind;

const READ: u8 = 0;
const WRITE: u8 = 1;
const WRITE_UNCHANGED: u8 = 2;
const RESIZE: u8 = 3;

/// The bytes that any lock of ours or of QEMU's lies in.
const FIRST: u8 = 100;
const BYTES: u8 = 104;

/// The permissions that a lock uses, and those that it does not share.
fn permissions(kind: LockKind) -> (&'static [u8], &'static [u8]) {
    match kind {
        LockKind::Exclusive => (
            &[READ, WRITE, RESIZE],
            &[READ, WRITE, WRITE_UNCHANGED, RESIZE],
        ),
        LockKind::Writer => (&[READ, WRITE, RESIZE], &[WRITE, RESIZE]),
        LockKind::Reader => (&[READ], &[WRITE, RESIZE]),
    }
}

const fn using(permission: u8) -> u8 {
    100 + permission
}

const fn not_sharing(permission: u8) -> u8 {
    200 + permission
}

fn bytes(kind: LockKind) -> impl Iterator<Item = u8> {
    let (used, unshared) = permissions(kind);
    used.iter()
        .map(|p| using(*p))
        .chain(unshared.iter().map(|p| not_sharing(*p)))
}

/// Takes a lock in place of the one that this description holds; a conflict is `WouldBlock` and
/// leaves what was held.
pub(crate) fn acquire(
    fd: BorrowedFd<'_>,
    kind: LockKind,
    held: Option<LockKind>,
) -> io::Result<()> {
    let had: Vec<u8> = held.into_iter().flat_map(bytes).collect();
    let mut outcome = Ok(());
    for byte in bytes(kind) {
        outcome = set(fd, libc::F_RDLCK, byte, 1);
        if outcome.is_err() {
            break;
        }
    }
    if let Err(conflict) = outcome.and_then(|()| test(fd, kind)) {
        for byte in bytes(kind).filter(|byte| !had.contains(byte)) {
            set(fd, libc::F_UNLCK, byte, 1)?;
        }
        return Err(conflict);
    }
    let now: Vec<u8> = bytes(kind).collect();
    for byte in had.into_iter().filter(|byte| !now.contains(byte)) {
        set(fd, libc::F_UNLCK, byte, 1)?;
    }
    Ok(())
}

/// Drops every lock of this description.
pub(crate) fn release(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::F_UNLCK, FIRST, BYTES)
}

fn test(fd: BorrowedFd<'_>, kind: LockKind) -> io::Result<()> {
    let (used, unshared) = permissions(kind);
    for permission in used {
        if taken_by_others(fd, not_sharing(*permission))? {
            let what = match *permission {
                READ => "does not let others read it",
                WRITE => "does not let others write to it",
                _ => "does not let others resize it",
            };
            return Err(conflict(what));
        }
    }
    for permission in unshared {
        if taken_by_others(fd, using(*permission))? {
            let what = match *permission {
                READ => "is reading it",
                WRITE => "is writing to it",
                _ => "may resize it",
            };
            return Err(conflict(what));
        }
    }
    Ok(())
}

fn conflict(what: &str) -> io::Error {
    let text = format!("the file is locked: another process has it open and {what}");
    io::Error::new(io::ErrorKind::WouldBlock, text)
}

fn region(kind: libc::c_int, byte: u8, len: u8) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(io::Error::other)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(io::Error::other)?,
        l_start: byte.into(),
        l_len: len.into(),
        // Must be 0 for locks of descriptions.
        l_pid: 0,
    })
}

fn set(fd: BorrowedFd<'_>, kind: libc::c_int, byte: u8, len: u8) -> io::Result<()> {
    call(fd, libc::F_OFD_SETLK, &mut region(kind, byte, len)?)
}

fn taken_by_others(fd: BorrowedFd<'_>, byte: u8) -> io::Result<bool> {
    let mut found = region(libc::F_WRLCK, byte, 1)?;
    call(fd, libc::F_OFD_GETLK, &mut found)?;
    Ok(libc::c_int::from(found.l_type) != libc::F_UNLCK)
}

fn call(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    loop {
        // JUSTIFICATION: safe crates wrap the locks of processes, not of descriptions.
        // SAFETY: the descriptor is open for as long as it is borrowed, and both commands take a
        // pointer to one `flock`, which is live and ours alone.
        let answer = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
        if answer == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EACCES | libc::EAGAIN) => {
                return Err(conflict("holds it with a lock that is not QEMU's"));
            }
            // File systems without locks: the caller decides by its lease.
            Some(libc::ENOLCK | libc::EINVAL | libc::EOPNOTSUPP) => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, error));
            }
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptions_exclude_each_other_as_in_qemu() {
        use LockKind::{Exclusive, Reader, Writer};
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        for (first, second, fits) in [
            (Reader, Reader, true),
            (Reader, Writer, false),
            (Reader, Exclusive, false),
            (Writer, Reader, false),
            (Writer, Writer, false),
            (Exclusive, Reader, false),
            (Exclusive, Exclusive, false),
        ] {
            let (a, b) = (open(), open());
            acquire(a.as_fd(), first, None).unwrap();
            let got = acquire(b.as_fd(), second, None);
            assert_eq!(got.is_ok(), fits, "{second:?} beside {first:?}");
            if let Err(error) = got {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                // Nothing is left of the failed attempt.
                acquire(a.as_fd(), Exclusive, Some(first)).unwrap();
            }
        }
    }

    #[test]
    fn a_lock_is_replaced_kept_on_failure_and_released() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let (a, b) = (open(), open());
        acquire(a.as_fd(), LockKind::Exclusive, None).unwrap();
        acquire(a.as_fd(), LockKind::Reader, Some(LockKind::Exclusive)).unwrap();
        acquire(b.as_fd(), LockKind::Reader, None).unwrap();
        acquire(a.as_fd(), LockKind::Writer, Some(LockKind::Reader)).unwrap_err();
        // a is still a reader, so b cannot become a writer.
        acquire(b.as_fd(), LockKind::Writer, Some(LockKind::Reader)).unwrap_err();
        release(a.as_fd()).unwrap();
        acquire(b.as_fd(), LockKind::Writer, Some(LockKind::Reader)).unwrap();
        drop(b);
        acquire(a.as_fd(), LockKind::Exclusive, None).unwrap();
    }
}
