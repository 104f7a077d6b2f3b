//! Disks whose content is known: raw files that tests fill and change, with a list of what changed.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::command::run;

/// A small deterministic generator (xorshift64*): tests repeat with their seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }

    /// Bytes that do not compress and are not zero.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&(self.number() | 1).to_le_bytes());
        }
        out.truncate(len);
        out
    }

    /// Puts a list into random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// What happened to a range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// New content.
    Write,
    /// Zeroed by WRITE_ZEROES.
    Zero,
    /// Zeroed by TRIM.
    Trim,
}

/// One change of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The first byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// What.
    pub act: Act,
}

/// A raw file that stands for a VM's disk.
#[derive(Debug)]
pub struct Disk {
    /// Where it lies.
    pub path: PathBuf,
    file: File,
}

impl Disk {
    /// A new disk of `size` bytes that reads as zero.
    pub fn empty(path: &Path, size: u64) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        file.set_len(size).unwrap();
        Self {
            path: path.to_owned(),
            file,
        }
    }

    /// An existing raw file.
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        Self {
            path: path.to_owned(),
            file,
        }
    }

    /// A new disk of `size` bytes with `share` per cent of its 64 KiB blocks filled at random
    /// places.
    pub fn scattered(path: &Path, size: u64, share: u64, seed: u64) -> Self {
        let disk = Self::empty(path, size);
        let mut random = Random::new(seed);
        let blocks = size.div_ceil(65536);
        for block in 0..blocks {
            if random.below(100) < share {
                let at = block * 65536;
                let len = 65536.min(size - at);
                disk.write(at, &random.bytes(len as usize));
            }
        }
        disk
    }

    /// A disk of `size` bytes (at least 1 GiB) with an MBR and two real file systems: ext4 in the
    /// first half, XFS in the second, both with files of known seeds.
    pub fn with_file_systems(dir: &Path, name: &str, size: u64, seed: u64) -> Self {
        let tree = dir.join(format!("{name}.tree"));
        std::fs::create_dir_all(&tree).unwrap();
        let mut random = Random::new(seed);
        for i in 0..40 {
            let len = 20_000 + random.below(2_000_000) as usize;
            std::fs::write(tree.join(format!("file-{i}")), random.bytes(len)).unwrap();
        }
        let path = dir.join(name);
        let disk = Self::empty(&path, size);
        let (first, second) = (1 << 20, size / 2);
        let part = dir.join(format!("{name}.part"));
        for (at, len, make) in [
            (first, size / 2 - (1 << 20), "ext4"),
            (second, size / 2, "xfs"),
        ] {
            File::create(&part).unwrap().set_len(len).unwrap();
            let target = part.to_str().unwrap();
            if make == "ext4" {
                let from = tree.to_str().unwrap();
                run("mkfs.ext4", &["-q", "-F", "-d", from, target]).ok();
            } else {
                run("mkfs.xfs", &["-q", "-f", target]).ok();
            }
            disk.copy_data_from(&part, at);
        }
        let mut mbr = [0u8; 512];
        for (i, (at, len)) in [(first, size / 2 - first), (second, size / 2)]
            .iter()
            .enumerate()
        {
            let entry = &mut mbr[446 + 16 * i..446 + 16 * (i + 1)];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&((at / 512) as u32).to_le_bytes());
            entry[12..16].copy_from_slice(&((len / 512) as u32).to_le_bytes());
        }
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.write(0, &mbr);
        std::fs::remove_file(&part).unwrap();
        std::fs::remove_dir_all(&tree).unwrap();
        disk
    }

    /// Copies the data extents of a sparse file to `base` on.
    fn copy_data_from(&self, from: &Path, base: u64) {
        let mut source = File::open(from).unwrap();
        let size = source.metadata().unwrap().len();
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        while at < size {
            let n = (size - at).min(buf.len() as u64) as usize;
            source.seek(SeekFrom::Start(at)).unwrap();
            std::io::Read::read_exact(&mut source, &mut buf[..n]).unwrap();
            if buf[..n].iter().any(|b| *b != 0) {
                self.file.write_all_at(&buf[..n], base + at).unwrap();
            }
            at += n as u64;
        }
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// The bytes that the file takes on its file system.
    pub fn allocated(&self) -> u64 {
        self.file.metadata().unwrap().blocks() * 512
    }

    /// Grows the disk; the new end reads as zero.
    pub fn grow(&self, size: u64) {
        self.file.set_len(size).unwrap();
    }

    /// Changes bytes.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    /// Reads bytes.
    pub fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        self.file.read_exact_at(&mut out, at).unwrap();
        out
    }

    /// A kept copy of the disk as it is now, thin.
    pub fn keep(&self, path: &Path) -> PathBuf {
        (&self.file).flush().unwrap();
        run(
            "cp",
            &[
                "--sparse=always",
                self.path.to_str().unwrap(),
                path.to_str().unwrap(),
            ],
        )
        .ok();
        path.to_owned()
    }

    /// Applies changes with content from `random`.
    pub fn apply(&self, changes: &[Change], random: &mut Random) {
        for c in changes {
            let bytes = match c.act {
                Act::Write => random.bytes(c.len as usize),
                Act::Zero | Act::Trim => vec![0; c.len as usize],
            };
            self.write(c.at, &bytes);
        }
    }
}

/// Scattered changes of about `share` per cent of a disk: mostly 64 KiB blocks, some of them with
/// 512-byte edges, some zeroed, some trimmed; sorted, without overlap.
pub fn scattered_changes(size: u64, share: u64, random: &mut Random) -> Vec<Change> {
    let mut changes = Vec::new();
    for block in 0..size / 65536 {
        if random.below(100) >= share {
            continue;
        }
        let start = block * 65536;
        let (at, len) = match random.below(10) {
            0 => (start + 512, 65536 - 512),
            1 => (start, 65536 - 512),
            2 => (start + 512 * (1 + random.below(60)), 512),
            _ => (start, 65536),
        };
        let act = match random.below(10) {
            0 => Act::Zero,
            1 => Act::Trim,
            _ => Act::Write,
        };
        changes.push(Change { at, len, act });
    }
    changes
}

/// The 64 KiB clusters that changes touch, in bytes.
pub fn touched_clusters(changes: &[Change]) -> u64 {
    let mut clusters: Vec<u64> = changes
        .iter()
        .flat_map(|c| c.at / 65536..=(c.at + c.len - 1) / 65536)
        .collect();
    clusters.sort_unstable();
    clusters.dedup();
    clusters.len() as u64 * 65536
}

/// Changes in the shape that the API takes.
pub fn to_json(changes: &[Change]) -> serde_json::Value {
    changes
        .iter()
        .map(|c| serde_json::json!({ "offset": c.at, "length": c.len }))
        .collect()
}
