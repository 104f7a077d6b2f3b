//! Loop devices and mounts of a test, taken down when dropped.

use std::path::{Path, PathBuf};

use crate::command::{Ran, run};
use crate::disk::Disk;

/// A loop device over a file, detached when dropped.
#[derive(Debug)]
pub struct Loop(pub String);

impl Loop {
    /// Over all of a file.
    #[track_caller]
    pub fn over(file: &Path) -> Self {
        let ran = run("losetup", &["--find", "--show", file.to_str().unwrap()]).ok();
        Self(ran.stdout.trim().to_owned())
    }

    /// Lets the device take the size that its file has now.
    #[track_caller]
    pub fn resized(&self) {
        run("losetup", &["-c", &self.0]).ok();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _: Ran = run("losetup", &["-d", &self.0]);
    }
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts what a device, or a file by a loop device of its own, holds.
    #[track_caller]
    pub fn of(what: &Path, at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        run("mount", &[what.to_str().unwrap(), at.to_str().unwrap()]).ok();
        Self(at.to_owned())
    }

    /// A new ext4 of `size` bytes in a file of `dir`, mounted.
    #[track_caller]
    pub fn small(dir: &Path, size: u64) -> Self {
        let image = dir.join("small.img");
        Disk::empty(&image, size);
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).ok();
        Self::of(&image, &dir.join("mnt"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _: Ran = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}
