//! Two ways to look at one tree: the kernel's mount, and our reader.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers are the tests' own"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use sha2::{Digest, Sha256};

use crate::guest::{Cursor, FileSystem, FileType, NodeId, Stat, Time};

/// Files up to here are read whole; of longer ones what is not zero is.
const WHOLE: u64 = 8 << 20;
const PIECE: usize = 4096;

/// All that is compared of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::guest) struct Seen {
    pub(in crate::guest) stat: Stat,
    pub(in crate::guest) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A digest of the content, or a link's target.
    pub(in crate::guest) content: Vec<u8>,
}

pub(in crate::guest) type View = BTreeMap<Vec<u8>, Seen>;

/// Fails with the first names that differ.
pub(in crate::guest) fn assert_same(ours: &View, kernel: &View) {
    let names: BTreeSet<_> = ours.keys().chain(kernel.keys()).collect();
    let wrong: Vec<String> = names
        .into_iter()
        .filter(|name| ours.get(*name) != kernel.get(*name))
        .map(|name| {
            let show = |view: &View| {
                let mut text = format!("{:?}", view.get(name));
                text.truncate(900);
                text
            };
            let path = String::from_utf8_lossy(name);
            format!("{path}\n kernel {}\n ours   {}", show(kernel), show(ours))
        })
        .collect();
    let first = wrong.iter().take(4).cloned().collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        first.join("\n")
    );
}

/// A digest of the pieces that are not all zero, with their places.
#[derive(Default)]
struct Pieces(Sha256);

impl Pieces {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        if bytes.iter().any(|b| *b != 0) {
            self.0.update(at.to_le_bytes());
            self.0.update(bytes);
        }
    }

    fn end(self) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

pub(in crate::guest) fn kernel(root: &Path) -> View {
    let mut view = View::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let facts = fs::symlink_metadata(&path).unwrap();
        let stat = stat_of(&facts);
        let content = match stat.file_type {
            FileType::Directory => {
                left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                Vec::new()
            }
            FileType::Symlink => fs::read_link(&path)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec(),
            FileType::File => kernel_content(&path, stat.size),
            _ => Vec::new(),
        };
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let xattrs = kernel_xattrs(&path);
        view.insert(
            name,
            Seen {
                stat,
                xattrs,
                content,
            },
        );
    }
    view
}

fn stat_of(facts: &Metadata) -> Stat {
    let file_type = match facts.mode() >> 12 {
        0x1 => FileType::Fifo,
        0x2 => FileType::CharDevice,
        0x4 => FileType::Directory,
        0x6 => FileType::BlockDevice,
        0x8 => FileType::File,
        0xa => FileType::Symlink,
        0xc => FileType::Socket,
        _ => FileType::Other,
    };
    let device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
    let (major, minor) = (
        rustix::fs::major(facts.rdev()),
        rustix::fs::minor(facts.rdev()),
    );
    let time = |seconds, nanos: i64| {
        Some(Time {
            seconds,
            nanos: nanos as u32,
        })
    };
    let created = facts.created().ok().map(|time| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Time {
            seconds: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        }
    });
    Stat {
        allocated: Some(facts.blocks() * 512),
        mode: Some(facts.mode() & 0o7777),
        uid: Some(facts.uid()),
        gid: Some(facts.gid()),
        links: Some(facts.nlink()),
        device: device.then_some((major, minor)),
        modified: time(facts.mtime(), facts.mtime_nsec()),
        accessed: time(facts.atime(), facts.atime_nsec()),
        changed: time(facts.ctime(), facts.ctime_nsec()),
        created,
        ..Stat::new(file_type, facts.size())
    }
}

fn kernel_content(path: &Path, size: u64) -> Vec<u8> {
    if size <= WHOLE {
        return Sha256::digest(fs::read(path).unwrap()).to_vec();
    }
    let file = File::open(path).unwrap();
    let (mut pieces, mut at) = (Pieces::default(), 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        at = start / PIECE as u64 * PIECE as u64;
        while at < end {
            let mut piece = vec![0; PIECE.min((size - at) as usize)];
            file.read_exact_at(&mut piece, at).unwrap();
            pieces.add(at, &piece);
            at += PIECE as u64;
        }
    }
    pieces.end()
}

fn kernel_xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 64 << 10];
    let len = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let len = lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect();
    all.sort();
    all
}

pub(in crate::guest) fn ours(fs: &dyn FileSystem) -> View {
    let mut view = View::new();
    let mut left = vec![(Vec::new(), fs.root(), None)];
    while let Some((path, node, told)) = left.pop() {
        let stat = fs.stat(node).unwrap();
        assert!(told.is_none_or(|told| told == stat.file_type), "{path:?}");
        let content = match stat.file_type {
            FileType::Directory => {
                let mut from = Cursor::default();
                loop {
                    // Small pages: every boundary is crossed somewhere.
                    let page = fs.list(node, from, 13).unwrap();
                    for entry in page.entries {
                        let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                        let path = [&path, slash, &entry.name].concat();
                        left.push((path, entry.node, entry.file_type));
                    }
                    match page.next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
                Vec::new()
            }
            FileType::Symlink => fs.link(node).unwrap(),
            FileType::File => our_content(fs, node, stat.size),
            _ => Vec::new(),
        };
        let xattrs = fs.xattrs(node).unwrap();
        let mut xattrs: Vec<_> = xattrs.into_iter().map(|x| (x.name, x.value)).collect();
        xattrs.sort();
        assert!(
            view.insert(
                path,
                Seen {
                    stat,
                    xattrs,
                    content
                }
            )
            .is_none()
        );
    }
    view
}

fn our_content(fs: &dyn FileSystem, node: NodeId, size: u64) -> Vec<u8> {
    let (mut pieces, mut at) = (Pieces::default(), 0);
    let mut ranges = Vec::new();
    while let Some(range) = fs.data(node, None, at).unwrap() {
        assert!(range.start >= at && range.end > range.start && range.end <= size);
        at = range.end;
        ranges.push(range);
    }
    if size <= WHOLE {
        let mut all = vec![0xee; size as usize + 10];
        assert_eq!(fs.read(node, None, 0, &mut all).unwrap() as u64, size);
        all.truncate(size as usize);
        let (start, mut part) = (size / 3, vec![0; 5000]);
        let len = fs.read(node, None, start, &mut part).unwrap();
        assert_eq!(part[..len], all[start as usize..][..len]);
        let digest = Sha256::digest(&all).to_vec();
        for range in ranges {
            all[range.start as usize..range.end as usize].fill(0);
        }
        assert!(
            all.iter().all(|b| *b == 0),
            "data outside of what data() tells"
        );
        return digest;
    }
    let mut done = 0;
    for range in ranges {
        let mut at = (range.start / PIECE as u64 * PIECE as u64).max(done);
        while at < range.end {
            let mut piece = vec![0; PIECE];
            let len = fs.read(node, None, at, &mut piece).unwrap();
            pieces.add(at, &piece[..len]);
            at += PIECE as u64;
            done = at;
        }
    }
    pieces.end()
}
