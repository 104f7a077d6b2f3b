//! The directory into which is extracted: nothing leaves it, no link in it is followed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat};
use rustix::io::Errno;

/// Bytes of a path that are opened in one call: the kernel takes 4095.
const AT_ONCE: usize = 3072;

/// An open destination.
#[derive(Debug)]
pub(super) struct Dest {
    root: Arc<OwnedFd>,
    /// The directory that was used last: most items lie beside the one before.
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Dest {
    /// Opens the directory, made where it is missing. The way to it is the caller's own, links
    /// included.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            root: Arc::new(root),
            last: None,
        })
    }

    /// Opens a directory beneath; the empty path is the destination itself.
    pub(super) fn dir(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Arc::clone(fd));
        }
        let mut here = Arc::clone(&self.root);
        let mut rest = path;
        while !rest.is_empty() {
            let (now, behind) = cut(rest);
            here = Arc::new(beneath(&here, now)?);
            rest = behind;
        }
        self.last = Some((path.to_vec(), Arc::clone(&here)));
        Ok(here)
    }

    /// The directory that holds a path, and the name in it.
    pub(super) fn parent<'p>(&mut self, path: &'p [u8]) -> io::Result<(Arc<OwnedFd>, &'p [u8])> {
        let slash = path.iter().rposition(|b| *b == b'/');
        let (above, name) = match slash.and_then(|at| path.split_at_checked(at)) {
            Some((above, name)) => (above, name.get(1..).unwrap_or_default()),
            None => (&[][..], path),
        };
        let bad = name.is_empty() || matches!(name, b"." | b"..") || name.contains(&0);
        if bad {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok((self.dir(above)?, name))
    }

    /// Gives the directory back that was used last.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Makes something new at a path with `make`, which must refuse a name that is there.
    pub(super) fn make(
        &mut self,
        path: &[u8],
        overwrite: bool,
        mut make: impl FnMut(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> io::Result<Made> {
        let (dir, name) = self.parent(path)?;
        let made = |name: Vec<u8>, to| Made {
            dir: Arc::clone(&dir),
            name,
            to,
            kept: false,
        };
        match make(&dir, name) {
            Ok(()) => return Ok(made(name.to_vec(), None)),
            Err(Errno::EXIST) if overwrite => {}
            Err(e) => return Err(e.into()),
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let other = format!(".sendense-{:016x}", u64::from_le_bytes(random)).into_bytes();
        make(&dir, &other)?;
        Ok(made(other, Some(name.to_vec())))
    }
}

/// The longest beginning that is opened in one call, and what follows.
fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= AT_ONCE {
        return (path, &[]);
    }
    let head = path.get(..AT_ONCE).unwrap_or(path);
    let at = head.iter().rposition(|b| *b == b'/');
    // A single component as long as that is refused by the kernel.
    match at.and_then(|at| path.split_at_checked(at)) {
        Some((now, behind)) => (now, behind.get(1..).unwrap_or_default()),
        None => (path, &[]),
    }
}

fn beneath(dir: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, path, flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOSYS) => step_by_step(dir, path, flags),
        Err(e) => Err(e.into()),
    }
}

/// The same where the kernel cannot do it in one call: names without `..` cannot lead upwards.
fn step_by_step(dir: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut at: Option<OwnedFd> = None;
    for name in path.split(|b| *b == b'/') {
        if name.is_empty() || matches!(name, b"." | b"..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let here: BorrowedFd<'_> = at.as_ref().map_or(dir.as_fd(), AsFd::as_fd);
        at = Some(openat(here, name, flags, Mode::empty())?);
    }
    at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Something that was made and is taken away again unless it is [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Made {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    /// The name that it is to get, where it replaces something.
    to: Option<Vec<u8>>,
    kept: bool,
}

impl Made {
    /// Where it stands.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Its name there, for now.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// It is whole: it gets its name, and stays.
    pub(super) fn keep(mut self) -> io::Result<()> {
        if let Some(to) = &self.to {
            renameat(&*self.dir, self.name.as_slice(), &*self.dir, to.as_slice())?;
            // Of two names of one file, renaming one to the other does nothing.
            let _ = unlinkat(&*self.dir, self.name.as_slice(), AtFlags::empty());
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.kept {
            // The failure that led here is what is told.
            let _ = unlinkat(&*self.dir, self.name.as_slice(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_without_openat2_follows_no_link_either() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("a/etc")).unwrap();
        let dest = Dest::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for open in [
            &beneath as &dyn Fn(&OwnedFd, &[u8]) -> io::Result<OwnedFd>,
            &|dir: &OwnedFd, path: &[u8]| step_by_step(dir, path, flags),
        ] {
            assert!(open(&dest.root, b"a/b").is_ok());
            for bad in ["a/etc", "a/etc/ssl", "..", "a/../..", "/etc", "a/none"] {
                assert!(open(&dest.root, bad.as_bytes()).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_opened_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let mut dest = Dest::open(dir.path()).unwrap();
        let mut path = Vec::new();
        for n in 0..40 {
            let name = vec![b'a' + n % 26; 200];
            path = crate::guest::walk::join(&path, &name);
            let (above, name) = dest.parent(&path).unwrap();
            rustix::fs::mkdirat(&*above, name, Mode::RWXU).unwrap();
        }
        assert!(path.len() > 8000);
        dest.forget();
        assert!(dest.dir(&path).is_ok());
    }
}
