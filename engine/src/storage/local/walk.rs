//! Opening a name beneath a directory without ever leaving it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::storage::path::{components, parent_and_name};

/// Opens `path` beneath `root`; a link anywhere in it is `InvalidInput`.
pub(super) fn open(root: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    components(path)?;
    if path.is_empty() {
        return Ok(openat(root, ".", flags | OFlags::CLOEXEC, mode)?);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOSYS) => step_by_step(root, path, flags, mode),
        Err(error) => Err(refine(path, error)),
    }
}

/// The same where the kernel cannot do it in one call: one component at a time, none a link. Names
/// without `..` cannot lead upwards.
pub(super) fn step_by_step(
    root: &OwnedFd,
    path: &str,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let (parents, name) = parent_and_name(path)?;
    let down = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    for part in components(parents)? {
        let here: BorrowedFd<'_> = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        at = Some(openat(here, part, down, Mode::empty()).map_err(|e| refine(path, e))?);
    }
    let here: BorrowedFd<'_> = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(here, name, flags, mode).map_err(|e| refine(path, e))
}

/// Opens a directory beneath `root`.
pub(super) fn directory(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    open(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY,
        Mode::empty(),
    )
}

/// Opens the directory that holds `path`, and tells the name in it.
pub(super) fn parent<'p>(root: &OwnedFd, path: &'p str) -> io::Result<(OwnedFd, &'p str)> {
    let (parent, name) = parent_and_name(path)?;
    Ok((directory(root, parent)?, name))
}

fn refine(path: &str, error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::XDEV => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the name {path:?} is refused: a part of it is a link or leads outside"),
        ),
        other => other.into(),
    }
}
