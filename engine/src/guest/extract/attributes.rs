//! Owner, mode, extended attributes and times of what was made.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use super::Options;
use crate::guest::walk::Item;
use crate::guest::{FileSystem, FileType, Time};

/// What of one item is kept.
pub(super) struct Keep<'a> {
    fs: &'a dyn FileSystem,
    options: &'a Options,
    item: &'a Item,
    lost: Vec<String>,
}

impl<'a> Keep<'a> {
    pub(super) fn new(fs: &'a dyn FileSystem, options: &'a Options, item: &'a Item) -> Self {
        Self {
            fs,
            options,
            item,
            lost: Vec::new(),
        }
    }

    /// Sets all on an open file or directory; what could not be set.
    pub(super) fn on(mut self, fd: BorrowedFd<'_>) -> Vec<String> {
        if let Some((uid, gid)) = self.owner() {
            let done = rustix::fs::fchown(fd, uid, gid);
            self.result("the owner", done);
        }
        // Behind the owner, whose change takes set-id bits away.
        if let Some(mode) = self.mode() {
            let done = rustix::fs::fchmod(fd, mode);
            self.result("the mode", done);
        }
        self.xattrs(|name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()));
        let done = rustix::fs::futimens(fd, &self.times());
        self.result("the times", done);
        self.lost
    }

    /// Sets what can be set on a link or special file by its name, never following it.
    pub(super) fn on_name(mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Vec<String> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner() {
            let done = rustix::fs::chownat(dir, name, uid, gid, flags);
            self.result("the owner", done);
        }
        if self.item.stat.file_type != FileType::Symlink
            && let Some(mode) = self.mode()
        {
            // A held name: what stands behind it cannot be exchanged meanwhile.
            let held = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let done = rustix::fs::openat(dir, name, held, Mode::empty()).and_then(|fd| {
                rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)
            });
            self.result("the mode", done);
        }
        // There is no call by directory and name; the last component is not followed.
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        self.xattrs(|name, value| {
            rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
        });
        let done = rustix::fs::utimensat(dir, name, &self.times(), flags);
        self.result("the times", done);
        self.lost
    }

    fn xattrs(&mut self, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) {
        let all = match self.fs.xattrs(self.item.node) {
            Ok(all) => all,
            Err(fault) => {
                self.lost
                    .push(format!("the attributes could not be read: {fault}"));
                return;
            }
        };
        for xattr in all {
            if self.options.owners || xattr.name.starts_with(b"user.") {
                let done = set(&xattr.name, &xattr.value);
                self.result(
                    &format!("the attribute {}", xattr.name.escape_ascii()),
                    done,
                );
            }
        }
    }

    fn owner(&self) -> Option<(Option<Uid>, Option<Gid>)> {
        let stat = &self.item.stat;
        // The highest number means "as it is" to the kernel.
        let known = |id: Option<u32>| id.filter(|id| *id != u32::MAX);
        let (uid, gid) = (known(stat.uid), known(stat.gid));
        let any = uid.is_some() || gid.is_some();
        (self.options.owners && any).then(|| (uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
    }

    /// Set-id bits belong to the guest's owner: without him they would be the caller's.
    fn mode(&self) -> Option<Mode> {
        let kept = if self.options.owners { 0o7777 } else { 0o1777 };
        self.item
            .stat
            .mode
            .map(|mode| Mode::from_raw_mode(mode & kept))
    }

    fn times(&self) -> Timestamps {
        let time = |time: Option<Time>| match time {
            Some(time) if time.nanos < 1_000_000_000 => Timespec {
                tv_sec: time.seconds,
                tv_nsec: time.nanos.into(),
            },
            Some(time) => Timespec {
                tv_sec: time.seconds,
                tv_nsec: 0,
            },
            None => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
        };
        let stat = &self.item.stat;
        Timestamps {
            last_access: time(stat.accessed),
            last_modification: time(stat.modified),
        }
    }

    fn result(&mut self, what: &str, done: rustix::io::Result<()>) {
        if let Err(e) = done {
            self.lost.push(format!("{what} could not be set: {e}"));
        }
    }
}
