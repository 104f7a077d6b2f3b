//! Loop devices and mounts of a test, taken down when dropped.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

    /// Over the rest of a file, from a byte on.
    #[track_caller]
    pub fn part(file: &Path, from: u64) -> Self {
        let (from, file) = (from.to_string(), file.to_str().unwrap());
        let ran = run("losetup", &["--find", "--show", "-o", &from, file]).ok();
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

    /// The same, with options.
    #[track_caller]
    pub fn with(options: &str, what: &Path, at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        let (what, to) = (what.to_str().unwrap(), at.to_str().unwrap());
        run("mount", &["-o", options, what, to]).ok();
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

/// An NTFS in a file, mounted by ntfs-3g; at the end all of it is in the file.
#[derive(Debug)]
pub struct NtfsMount {
    /// Where it is mounted.
    pub at: PathBuf,
    driver: Child,
}

impl NtfsMount {
    /// Mounts the file at a directory that is there.
    #[track_caller]
    pub fn new(options: &str, what: &Path, at: &Path) -> Self {
        let before = std::fs::metadata(at).unwrap().dev();
        let options = format!("no_detach,{options}");
        let mut command = Command::new("ntfs-3g");
        command.arg("-o").arg(options).arg(what).arg(at);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while std::fs::metadata(at).unwrap().dev() == before {
            assert!(Instant::now() < end, "ntfs-3g does not mount");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            at: at.to_owned(),
            driver,
        }
    }
}

impl Drop for NtfsMount {
    fn drop(&mut self) {
        let _: Ran = run("umount", &[self.at.to_str().unwrap()]);
        let _ = self.driver.wait();
    }
}
