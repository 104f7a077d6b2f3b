#![expect(clippy::cast_possible_truncation, reason = "patterns of small numbers")]

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::io::{EngineChoice, Io, IoConfig};
use crate::pool::IoBuf;
use crate::storage::{Directory, Entry, EntryKind, LockKind, WriteRun};

/// A fresh directory on the usual file system, and one on tmpfs where there is one: usually the
/// first gives direct I/O and the second does not.
fn roots() -> Vec<tempfile::TempDir> {
    let here = tempfile::tempdir().unwrap();
    let memory = tempfile::tempdir_in("/dev/shm").ok();
    [Some(here), memory].into_iter().flatten().collect()
}

fn ios() -> [Io; 2] {
    [EngineChoice::Auto, EngineChoice::Plain].map(|engine| {
        Io::new(IoConfig {
            engine,
            ..IoConfig::small()
        })
        .unwrap()
    })
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 31 + seed * 7) % 251) as u8 + 1)
        .collect()
}

#[tokio::test]
async fn any_alignment_reads_back_on_every_engine_and_file_system() {
    for root in roots() {
        for io in ios() {
            let path = root.path().join(format!("disk-{:?}", io.engine()));
            let file = open_path(&path, Create::New).unwrap();
            let mut model = vec![0_u8; 300_000];
            let requests = [
                (0, 4096),
                (8192, 65536),
                (100, 50),
                (4000, 9000),
                (65_535, 2),
                (131_072, 512),
            ];
            for (seed, (at, len)) in requests.into_iter().enumerate() {
                let bytes = pattern(seed, len);
                model[at..at + len].copy_from_slice(&bytes);
                let runs = vec![WriteRun {
                    at: at as u64,
                    part: 0..len,
                }];
                let (_, result) = file.write_runs(&io, IoBuf::copy_of(&bytes), runs).await;
                result.unwrap();
            }
            let blocking = pattern(99, 200_001);
            model[77_777..77_777 + 200_001].copy_from_slice(&blocking);
            file.write_at_blocking(77_777, &blocking).unwrap();
            assert_eq!(
                file.len().unwrap(),
                277_778,
                "not a byte longer than was written"
            );
            file.sync(&io).await.unwrap();
            for (at, len) in [
                (0, 300_000),
                (1, 1),
                (4095, 4098),
                (277_000, 4096),
                (270_336, 9000),
            ] {
                let (buf, result) = file
                    .read_at(&io, at as u64, IoBuf::copy_of(&vec![9; len]))
                    .await;
                result.unwrap();
                assert!(buf.as_ref() == &model[at..at + len], "{at} + {len}");
                let mut blocking = vec![9; len];
                file.read_at_blocking(at as u64, &mut blocking).unwrap();
                assert!(blocking == model[at..at + len], "{at} + {len}, blocking");
            }
            // The way that any other program reads it.
            let mut plain = vec![0; 277_778];
            std::fs::File::open(&path)
                .unwrap()
                .read_exact_at(&mut plain, 0)
                .unwrap();
            assert!(plain == model[..277_778]);
        }
    }
}

#[tokio::test]
async fn runs_of_one_buffer_go_where_they_belong() {
    for root in roots() {
        for io in ios() {
            let path = root.path().join(format!("runs-{:?}", io.engine()));
            let file = open_path(&path, Create::New).unwrap();
            let bytes = pattern(3, 16384);
            let runs = vec![
                WriteRun {
                    at: 40_960,
                    part: 0..4096,
                },
                WriteRun {
                    at: 0,
                    part: 4096..12288,
                },
                WriteRun {
                    at: 9000,
                    part: 12288..12300,
                },
                WriteRun { at: 5, part: 7..7 },
            ];
            let (buf, result) = file.write_runs(&io, IoBuf::copy_of(&bytes), runs).await;
            result.unwrap();
            assert_eq!(buf.as_ref(), bytes);
            let mut back = vec![0; 45_056];
            file.read_at_blocking(0, &mut back).unwrap();
            assert!(back[..8192] == bytes[4096..12288]);
            assert!(back[9000..9012] == bytes[12288..12300]);
            assert!(back[40_960..] == bytes[..4096]);
            let outside = vec![WriteRun {
                at: 0,
                part: 16000..16385,
            }];
            let (_, result) = file.write_runs(&io, buf, outside).await;
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}

#[tokio::test]
async fn unaligned_writes_beside_each_other_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let io = Io::new(IoConfig::small()).unwrap();
    let file = open_path(&root.path().join("a"), Create::New).unwrap();
    file.set_len(10_000).unwrap();
    let count = AtomicU8::new(0);
    let writes = (0..100_usize).map(|i| {
        let (file, io, count) = (&file, &io, &count);
        async move {
            let bytes = IoBuf::copy_of(&[i as u8 + 1; 100]);
            let runs = vec![WriteRun {
                at: i as u64 * 100,
                part: 0..100,
            }];
            file.write_runs(io, bytes, runs).await.1.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    futures_util::future::join_all(writes).await;
    let mut back = vec![0; 10_000];
    file.read_at_blocking(0, &mut back).unwrap();
    assert!(
        back.chunks(100)
            .enumerate()
            .all(|(i, c)| c.iter().all(|b| *b == i as u8 + 1))
    );
    assert_eq!(file.len().unwrap(), 10_000);
    assert_eq!(count.into_inner(), 100);
}

#[test]
fn holes_are_made_found_and_read_as_zero() {
    for root in roots() {
        let file = open_path(&root.path().join("a"), Create::New).unwrap();
        file.write_at_blocking(0, &pattern(1, 1 << 20)).unwrap();
        if !file.punch(65_536 + 100, 131_072).unwrap() {
            continue;
        }
        assert!(
            file.punch(1 << 30, 5).unwrap(),
            "nothing to do behind the end"
        );
        file.set_len(2 << 20).unwrap();
        let extents = file.extents(0, 3 << 20).unwrap();
        assert_eq!(extents.first().map(|e| (e.at, e.hole)), Some((0, false)));
        assert!(
            extents
                .iter()
                .any(|e| e.hole && e.at < 100_000 && e.at + e.len > 190_000)
        );
        assert_eq!(extents.iter().map(|e| e.len).sum::<u64>(), 3 << 20);
        assert!(extents.last().unwrap().hole);
        let mut back = vec![0; 1 << 20];
        file.read_at_blocking(0, &mut back).unwrap();
        let mut model = pattern(1, 1 << 20);
        model[65_636..65_636 + 131_072].fill(0);
        assert!(back == model);
        if file.allocate(0, 4 << 20).unwrap() {
            assert_eq!(file.len().unwrap(), 4 << 20);
        }
    }
}

fn tree() -> (tempfile::TempDir, Arc<dyn Directory>) {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("repo")).unwrap();
    std::fs::write(root.path().join("secret"), b"secret").unwrap();
    let dir = LocalDirectory::open(&root.path().join("repo")).unwrap();
    (root, dir)
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let (root, dir) = tree();
    let repo = root.path().join("repo");
    symlink("../secret", repo.join("link")).unwrap();
    symlink("..", repo.join("up")).unwrap();
    symlink("/", repo.join("slash")).unwrap();
    dir.create_dirs("sub").unwrap();
    symlink("../sub", repo.join("sub/inside")).unwrap();
    for bad in [
        "../secret",
        "/etc/passwd",
        "link",
        "up/secret",
        "slash/etc/passwd",
        "sub/inside",
    ] {
        for how in [Create::OpenRead, Create::OpenWrite] {
            let refused = dir.open(bad, how).unwrap_err();
            assert_eq!(
                refused.kind(),
                io::ErrorKind::InvalidInput,
                "{bad}: {refused}"
            );
        }
    }
    let fd = OwnedFd::from(std::fs::File::open(&repo).unwrap());
    for bad in [
        "../secret",
        "link",
        "up/secret",
        "slash/etc/passwd",
        "sub/inside",
    ] {
        walk::step_by_step(&fd, bad, OFlags::RDONLY, Mode::empty()).unwrap_err();
    }
    for bad in ["link", "up/x"] {
        assert!(dir.open(bad, Create::New).is_err());
    }
    assert!(dir.create_dirs("up/made").is_err());
    assert!(dir.rename("sub", "up/sub").is_err());
    assert!(dir.remove_file("up/secret").is_err());
    assert!(dir.list("slash").is_err());
    assert!(dir.sync_dir("up").is_err());
    assert!(root.path().join("secret").exists());
    dir.write_small("sub/good", b"x").unwrap();
    let stepped = walk::step_by_step(&fd, "sub/good", OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(std::fs::File::from(stepped).metadata().unwrap().len(), 1);
}

#[test]
fn names_are_made_moved_and_removed_without_replacing() {
    let (root, dir) = tree();
    dir.create_dirs("vm/disk-0").unwrap();
    dir.create_dirs("vm/disk-0").unwrap();
    dir.write_small("vm/disk-0/a.tmp", b"one").unwrap();
    let taken = dir.write_small("vm/disk-0/a.tmp", b"two").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    dir.write_small("vm/b", b"b").unwrap();
    let taken = dir.rename("vm/disk-0/a.tmp", "vm/b").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    dir.rename("vm/disk-0/a.tmp", "vm/a").unwrap();
    dir.sync_dir("vm").unwrap();
    assert_eq!(dir.read_small("vm/a", 3).unwrap(), b"one");
    assert!(dir.create_dirs("vm/a/x").is_err());
    assert!(dir.open("vm", Create::OpenRead).is_err());
    symlink("a", root.path().join("repo/vm/link")).unwrap();
    let entry = |name: &str, kind| Entry {
        name: name.to_owned(),
        kind,
    };
    assert_eq!(
        dir.list("vm").unwrap(),
        [
            entry("a", EntryKind::File),
            entry("b", EntryKind::File),
            entry("disk-0", EntryKind::Directory),
            entry("link", EntryKind::Other)
        ]
    );
    dir.remove_dir("vm/disk-0").unwrap();
    dir.remove_file("vm/a").unwrap();
    assert_eq!(
        dir.remove_file("vm/a").unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    let space = dir.space().unwrap();
    assert!(space.available <= space.total && space.total > 0);
}

/// Counts the syncs of directories, and fails them while told to.
struct Syncs {
    broken: bool,
    done: Vec<(u64, u64)>,
}

impl Syncs {
    fn sync(&mut self, fd: &OwnedFd) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let stat = rustix::fs::fstat(fd)?;
        self.done.push((stat.st_dev, stat.st_ino));
        Ok(())
    }
}

fn identity(path: &Path) -> (u64, u64) {
    let stat = rustix::fs::stat(path).unwrap();
    (stat.st_dev, stat.st_ino)
}

#[test]
fn a_directory_whose_parent_was_not_synced_is_synced_the_next_time() {
    let root = tempfile::tempdir().unwrap();
    let fd = OwnedFd::from(std::fs::File::open(root.path()).unwrap());
    let mut syncs = Syncs {
        broken: true,
        done: Vec::new(),
    };
    // Made, but nobody knows whether it would be there after a crash.
    dir::make_dirs(&fd, "vm/disk-0", |d| syncs.sync(d)).unwrap_err();
    assert!(root.path().join("vm").is_dir());
    assert!(!root.path().join("vm/disk-0").exists());
    syncs.broken = false;
    dir::make_dirs(&fd, "vm/disk-0", |d| syncs.sync(d)).unwrap();
    let parents = [identity(root.path()), identity(&root.path().join("vm"))];
    assert_eq!(syncs.done, parents);
}

#[test]
fn a_new_path_is_durable_from_its_first_directory_on() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b/c");
    let mut syncs = Syncs {
        broken: true,
        done: Vec::new(),
    };
    dir::make_path(&path, 0o700, |d| syncs.sync(d)).unwrap_err();
    syncs.broken = false;
    dir::make_path(&path, 0o700, |d| syncs.sync(d)).unwrap();
    for made in ["a", "a/b", "a/b/c"] {
        let made = root.path().join(made);
        let mode = rustix::fs::stat(&made).unwrap().st_mode & 0o7777;
        assert_eq!(mode, 0o700, "{made:?}");
        let parent = identity(made.parent().unwrap());
        assert!(syncs.done.contains(&parent), "{made:?}");
    }
    // As it is for a directory that is there; a file in its place is refused.
    create_path(&path, 0o700).unwrap();
    create_path(Path::new("."), 0o700).unwrap();
    std::fs::write(path.join("file"), b"").unwrap();
    let refused = create_path(&path.join("file"), 0o700).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotADirectory);
    assert!(create_path(&path.join("file/below"), 0o700).is_err());
}

#[test]
fn what_is_no_file_is_not_opened_and_does_not_hang() {
    let (root, dir) = tree();
    let fifo = root.path().join("repo/pipe");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(
        dir.open("pipe", Create::OpenRead).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert!(open_path(&PathBuf::from("/dev/null"), Create::OpenRead).is_err());
    assert!(open_path(root.path(), Create::OpenRead).is_err());
}

#[test]
fn a_lock_lasts_until_unlock_or_close_and_the_file_says_what_it_may() {
    let (_root, dir) = tree();
    dir.write_small("a", b"x").unwrap();
    let one = dir.open("a", Create::OpenWrite).unwrap();
    let two = dir.open("a", Create::OpenRead).unwrap();
    one.lock(LockKind::Exclusive).unwrap();
    assert_eq!(
        two.lock(LockKind::Reader).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    one.unlock().unwrap();
    two.lock(LockKind::Reader).unwrap();
    assert!(one.lock(LockKind::Writer).is_err());
    drop(two);
    one.lock(LockKind::Writer).unwrap();
    let reader = dir.open("a", Create::OpenRead).unwrap();
    assert!(reader.write_at_blocking(0, b"y").is_err());
    assert!(reader.punch(0, 1).is_err());
}

#[test]
fn ext4_is_read_and_written_directly_and_tmpfs_is_not() {
    for root in roots() {
        let path = root.path().join("a");
        let fd = openat(CWD, &path, open_flags(Create::New), NEW_FILE).unwrap();
        let magic = rustix::fs::fstatfs(&fd).unwrap().f_type;
        let file = LocalFile::new(fd, true, false).unwrap();
        match magic {
            0xef53 => assert!(file.is_direct()),
            0x0102_1994 => assert!(!file.is_direct()),
            _ => {}
        }
    }
}
