//! The disk of the demonstration: given or made, and its changed copy.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::fs::SeekFrom;

use crate::types::Change;

/// The unit of a change.
const BLOCK: u64 = 64 << 10;
/// One block in this many is changed.
const ONE_IN: u64 = 20;
/// A file of a made disk.
const FILE_BYTES: u64 = 8 << 20;
/// How each block of such a file begins, so that it is found again in the disk.
const MARK: &[u8; 16] = b"sendense-quick-1";

/// A disk to back up.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) description: String,
    /// Why it may not be the disk that was meant.
    pub(super) warning: Option<String>,
}

/// The changed copy.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) path: PathBuf,
    pub(super) ranges: Vec<Change>,
}

/// The given disk, or a new one of `size` bytes: with a real ext4 where mkfs.ext4 is there.
pub(super) fn prepare(given: Option<&Path>, work: &Path, size: u64) -> anyhow::Result<Source> {
    if let Some(path) = given {
        let unreadable = || format!("{} cannot be read", path.display());
        let size = crate::mover::size_of(path).with_context(unreadable)?;
        let warning = crate::mover::image_warning(path).with_context(unreadable)?;
        if size == 0 {
            bail!("{} is empty: there is nothing to back up", path.display());
        }
        return Ok(Source {
            path: path.to_owned(),
            size,
            description: format!("{} ({size} bytes)", path.display()),
            warning,
        });
    }
    let path = work.join("disk.raw");
    let files = work.join("files");
    std::fs::create_dir(&files)?;
    // A fifth of the disk, as a young machine would have.
    let count = size / 5 / FILE_BYTES;
    for n in 0..count {
        write_file(&files.join(format!("file-{n:03}.bin")), n)?;
    }
    let disk = File::create_new(&path)?;
    disk.set_len(size)?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .arg(&files)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let description = match made {
        Ok(status) if status.success() => "made one, with a real ext4 and files in it",
        _ => {
            // Without mkfs the files lie on the bare disk, with room between them.
            disk.set_len(0)?;
            disk.set_len(size)?;
            for n in 0..count {
                let bytes = std::fs::read(files.join(format!("file-{n:03}.bin")))?;
                disk.write_all_at(&bytes, n * FILE_BYTES * 5)?;
            }
            "made one (without a file system: mkfs.ext4 is not here)"
        }
    };
    std::fs::remove_dir_all(&files)?;
    Ok(Source {
        path,
        size,
        description: format!("{description} ({size} bytes)"),
        warning: None,
    })
}

fn write_file(path: &Path, seed: u64) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(File::create_new(path)?);
    let mut noise = Noise::new(seed);
    for _ in 0..FILE_BYTES / BLOCK {
        file.write_all(&noise.block(true))?;
    }
    file.flush()?;
    Ok(())
}

/// A copy of the disk with about 5 % of its data changed: of a made disk in its files alone, so
/// that its file system stays right.
pub(super) fn change(source: &Path, work: &Path) -> anyhow::Result<Changed> {
    let path = work.join("disk-changed.raw");
    let (from, to) = (File::open(source)?, File::create_new(&path)?);
    let size = crate::mover::size_of(source)?;
    to.set_len(size)?;
    let mut blocks = Vec::new();
    let mut marked = Vec::new();
    let mut at = 0;
    while at < size {
        let Some(data) = next_data(&from, at, size) else {
            break;
        };
        // Whole blocks, so that a change is one.
        at = data - data % BLOCK;
        let len = BLOCK.min(size - at);
        let mut bytes = vec![0; usize::try_from(len)?];
        from.read_exact_at(&mut bytes, at)?;
        if bytes.iter().any(|b| *b != 0) {
            to.write_all_at(&bytes, at).with_context(|| {
                format!(
                    "{} has no room for a copy of the disk: choose a --dir with more",
                    work.display()
                )
            })?;
            blocks.push((at, len));
            if bytes.starts_with(MARK) {
                marked.push((at, len));
            }
        }
        at += BLOCK;
    }
    let candidates = if marked.is_empty() { blocks } else { marked };
    let mut noise = Noise::new(0x5eed);
    let mut ranges = Vec::new();
    for (at, len) in candidates {
        if !noise.next().is_multiple_of(ONE_IN) {
            continue;
        }
        let bytes = noise.block(false);
        let bytes = bytes.get(..usize::try_from(len)?).unwrap_or(&bytes);
        to.write_all_at(bytes, at)?;
        ranges.push(Change {
            offset: at,
            length: len,
        });
    }
    if ranges.is_empty() {
        // A disk of few blocks: its first one changes.
        let len = BLOCK.min(size);
        let bytes = noise.block(false);
        to.write_all_at(bytes.get(..usize::try_from(len)?).unwrap_or(&bytes), 0)?;
        ranges.push(Change {
            offset: 0,
            length: len,
        });
    }
    to.sync_all()?;
    Ok(Changed { path, ranges })
}

fn next_data(file: &File, at: u64, size: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => (data < size).then_some(data),
        Err(rustix::io::Errno::NXIO) => None,
        // Where the file system cannot tell, everything is data.
        Err(_) => Some(at),
    }
}

/// Where two disks differ first, if they do; a different size is a difference at the shorter's end.
pub(super) fn first_difference(a: &Path, b: &Path) -> anyhow::Result<Option<u64>> {
    let (size, other) = (crate::mover::size_of(a)?, crate::mover::size_of(b)?);
    let (a, b) = (File::open(a)?, File::open(b)?);
    let mut left = vec![0; 1 << 20];
    let mut right = left.clone();
    let mut at = 0;
    while at < size.min(other) {
        let n = usize::try_from((size.min(other) - at).min(1 << 20))?;
        let (Some(x), Some(y)) = (left.get_mut(..n), right.get_mut(..n)) else {
            bail!("a buffer is too short");
        };
        a.read_exact_at(x, at)?;
        b.read_exact_at(y, at)?;
        if x != y {
            let i = x.iter().zip(y.iter()).position(|(p, q)| p != q);
            return Ok(Some(at + i.unwrap_or_default() as u64));
        }
        at += n as u64;
    }
    Ok((size != other).then_some(size.min(other)))
}

/// Bytes that do not compress and come out the same each time.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn block(&mut self, marked: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(65536);
        if marked {
            out.extend_from_slice(MARK);
        }
        while out.len() < 65536 {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_what_it_says_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = File::create_new(&path).unwrap();
        let size = 40 * BLOCK + 513;
        disk.set_len(size).unwrap();
        let mut noise = Noise::new(7);
        for n in 0..30 {
            disk.write_all_at(&noise.block(n % 2 == 0), n * BLOCK)
                .unwrap();
        }
        let changed = change(&path, dir.path()).unwrap();
        assert!(!changed.ranges.is_empty());
        let (old, new) = (
            std::fs::read(&path).unwrap(),
            std::fs::read(&changed.path).unwrap(),
        );
        assert_eq!(new.len() as u64, size);
        for at in 0..size {
            let i = usize::try_from(at).unwrap();
            let said = changed
                .ranges
                .iter()
                .any(|r| (r.offset..r.offset + r.length).contains(&at));
            assert!(said || old[i] == new[i], "byte {at}");
        }
        assert!(first_difference(&path, &changed.path).unwrap().is_some());
        assert_eq!(first_difference(&path, &path).unwrap(), None);
    }
}
