//! Images made by the real tools, mounted by the kernel. Needs root and loop devices: without
//! them the tests fail rather than prove nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::guest::blocks::inside;
use crate::guest::{Blocks, Fault, FaultKind, FileSystem, OpenOptions, Result, open};

/// An image in a directory of its own.
pub(in crate::guest) struct Image {
    dir: TempDir,
    pub(in crate::guest) path: PathBuf,
}

impl Image {
    /// `mib` MiB, formatted by `mkfs` with its options.
    pub(in crate::guest) fn make(mib: u64, mkfs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        File::create(&path).unwrap().set_len(mib << 20).unwrap();
        let (tool, options) = mkfs.split_first().unwrap();
        let mut command = Command::new(tool);
        command.arg("-q");
        if !tool.contains("xfs") {
            command.arg("-F");
        }
        run(command.args(options).arg(&path));
        Self { dir, path }
    }

    /// A copy as it stands now.
    pub(in crate::guest) fn copy(&self, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        run(Command::new("cp")
            .arg("--sparse=always")
            .arg(&self.path)
            .arg(&to));
        to
    }

    pub(in crate::guest) fn mount(&self, options: &str) -> Mount {
        Mount::new(&self.path, options)
    }

    pub(in crate::guest) fn ours(&self) -> Box<dyn FileSystem> {
        ours(&self.path, &OpenOptions::default()).unwrap()
    }
}

/// Our own reader on an image.
pub(in crate::guest) fn ours(path: &Path, options: &OpenOptions) -> Result<Box<dyn FileSystem>> {
    open(Arc::new(OnDisk::new(path)), options)
}

/// A file as a disk.
#[derive(Debug)]
pub(in crate::guest) struct OnDisk {
    file: File,
    size: u64,
}

impl OnDisk {
    pub(in crate::guest) fn new(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let size = file.metadata().unwrap().len();
        Self { file, size }
    }
}

impl Blocks for OnDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(self.size, at, buf.len())?;
        let read = self.file.read_exact_at(buf, at);
        read.map_err(|error| Fault::new(FaultKind::Io, error.to_string()))
    }
}

/// A mounted image; unmounted at the end.
pub(in crate::guest) struct Mount {
    point: TempDir,
}

impl Mount {
    pub(in crate::guest) fn new(image: &Path, options: &str) -> Self {
        let point = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-o", &format!("loop,noatime,{options}")]);
        command.arg(image).arg(point.path());
        // Others look for a free loop device at the same time: the loser tries again.
        for _ in 0..5 {
            if command.status().unwrap().success() {
                return Self { point };
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        run(&mut command);
        Self { point }
    }

    pub(in crate::guest) fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Busy for a moment where another test starts a process just now.
        for _ in 0..25 {
            let done = Command::new("umount").arg(self.point.path()).status();
            if done.unwrap().success() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert!(std::thread::panicking(), "umount");
    }
}

pub(in crate::guest) fn run(command: &mut Command) {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}
