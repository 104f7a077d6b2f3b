//! File systems that were shut down in the middle, as the snapshot of a running machine finds
//! them: copied before they are unmounted, since that would write what the journal holds.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::fixture::{Image, Mount, ours, run};
use super::{tree, view};
use crate::guest::{FaultKind, FileType, OpenOptions, State};

/// A base that is on the disk.
fn base(root: &Path) {
    for dir in ["old", "moves", "keeps"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    for n in 0..60u64 {
        let path = root.join(format!("old/{n:03}"));
        fs::write(path, tree::noise(n, n as usize * 300)).unwrap();
    }
    fs::write(root.join("cut"), tree::noise(9, 900_000)).unwrap();
    sync(root);
}

fn sync(root: &Path) {
    rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
}

fn synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// What stands in the journal alone.
fn change(root: &Path) {
    for n in 0..200u64 {
        let path = root.join(format!("keeps/new-{n:03}"));
        synced(&path, &tree::noise(n + 1000, n as usize * 40));
    }
    fs::rename(root.join("moves"), root.join("moved")).unwrap();
    for n in 0..40 {
        fs::remove_file(root.join(format!("old/{n:03}"))).unwrap();
    }
    let cut = File::options().write(true).open(root.join("cut")).unwrap();
    cut.set_len(123_456).unwrap();
    std::os::unix::fs::symlink("target", root.join("link")).unwrap();
    // A directory whose blocks come back as content: what was journalled of them is revoked.
    fs::create_dir(root.join("gone")).unwrap();
    for n in 0..100 {
        fs::write(root.join(format!("gone/{n}")), b"").unwrap();
    }
    synced(&root.join("between"), b"commits what is above");
    fs::remove_dir_all(root.join("gone")).unwrap();
    synced(&root.join("reuses"), &tree::noise(77, 400_000));
    cut.sync_all().unwrap();
}

/// The image as it stood when it was shut down, and the kernel's two views of it.
struct Crash {
    image: Image,
    copy: std::path::PathBuf,
    kernel: view::View,
}

fn crash(mkfs: &[&str], options: &str, flush: bool, change: impl Fn(&Path)) -> Crash {
    let image = Image::make(64, mkfs);
    // Nothing is committed because time passes, however busy the machine is.
    let mount = image.mount(&format!("{options},commit=300"));
    base(mount.path());
    change(mount.path());
    // A file that was unlinked while it is open: an orphan.
    let orphan = File::create(mount.path().join("orphan")).unwrap();
    if flush {
        orphan.set_len(100_000).unwrap();
        orphan.sync_all().unwrap();
        fs::remove_file(mount.path().join("orphan")).unwrap();
        synced(&mount.path().join("end"), b"");
    }
    let shutdown = if flush { "shutdown -f" } else { "shutdown" };
    run(Command::new("xfs_io")
        .args(["-x", "-c", shutdown])
        .arg(mount.path()));
    let copy = image.copy("crashed");
    drop((orphan, mount));
    let second = image.copy("unused");
    fs::copy(&copy, &second).unwrap();
    let stale = {
        let mount = Mount::new(&second, "ro,noload");
        fs::read_dir(mount.path().join("keeps")).unwrap().count()
    };
    let kernel = {
        let mount = Mount::new(&second, "rw");
        view::kernel(mount.path())
    };
    let now = kernel
        .keys()
        .filter(|path| path.starts_with(b"keeps/"))
        .count();
    assert_ne!(
        stale, now,
        "nothing needed a replay: the fixture proves nothing"
    );
    Crash {
        image,
        copy,
        kernel,
    }
}

/// Our view of a crashed image.
fn replayed(crash: &Crash) -> view::View {
    let fs = ours(&crash.copy, &OpenOptions::default()).unwrap();
    let State::Replayed { reason } = &fs.facts().state else {
        panic!("{:?}", fs.facts());
    };
    println!("{reason}");
    view::ours(&*fs)
}

#[test]
fn a_dirty_ext4_is_replayed_as_the_kernel_does() {
    let crash = crash(&["mkfs.ext4", "-b", "4096"], "rw", true, change);
    view::assert_same(&replayed(&crash), &crash.kernel);
}

#[test]
fn a_dirty_ext4_without_checksums_is_replayed_as_the_kernel_does() {
    let mkfs = ["mkfs.ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"];
    let crash = crash(&mkfs, "rw", true, change);
    view::assert_same(&replayed(&crash), &crash.kernel);
}

#[test]
fn a_dirty_ext3_is_replayed_as_the_kernel_does() {
    let crash = crash(&["mkfs.ext3", "-b", "1024"], "rw", true, change);
    view::assert_same(&replayed(&crash), &crash.kernel);
}

#[test]
fn a_journal_with_checksums_over_transactions_is_replayed_as_the_kernel_does() {
    let mkfs = ["mkfs.ext4", "-b", "4096", "-O", "^metadata_csum"];
    let crash = crash(
        &mkfs,
        "rw,data=writeback,journal_async_commit",
        true,
        change,
    );
    view::assert_same(&replayed(&crash), &crash.kernel);
}

#[test]
fn content_in_the_journal_is_replayed_as_the_kernel_does() {
    let magic = 0xc03b_3998u32.to_be_bytes();
    let write = |root: &Path| {
        change(root);
        // Blocks that begin with the journal's own magic number are escaped in it.
        synced(&root.join("like-a-journal"), &magic.repeat(9000));
    };
    let crash = crash(&["mkfs.ext4", "-b", "4096"], "rw,data=journal", true, write);
    let ours = replayed(&crash);
    assert_eq!(ours[&b"like-a-journal"[..]].stat.size, 36_000);
    view::assert_same(&ours, &crash.kernel);
}

/// Directories whose blocks become content: to replay them would write over it.
fn reuse(root: &Path) {
    let free = || {
        let facts = rustix::fs::statvfs(root).unwrap();
        facts.f_bavail * facts.f_frsize
    };
    let filler = File::create(root.join("filler")).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&filler, flags, 0, free() - (1200 << 10)).unwrap();
    filler.sync_all().unwrap();
    for n in 0..400 {
        fs::create_dir_all(root.join(format!("gone/{n}"))).unwrap();
    }
    synced(&root.join("keeps/between"), b"commits what is above");
    fs::remove_dir_all(root.join("gone")).unwrap();
    synced(&root.join("keeps/after"), b"commits what is above");
    let mut file = File::create(root.join("reuses")).unwrap();
    for n in 0..free() / 4096 - 20 {
        file.write_all(&tree::noise(n, 4096)).unwrap();
    }
    file.sync_all().unwrap();
}

#[test]
fn what_was_taken_back_is_not_replayed() {
    let mkfs = ["mkfs.ext4", "-b", "1024", "-m", "0", "-J", "size=4"];
    let crash = crash(&mkfs, "rw", true, reuse);
    view::assert_same(&replayed(&crash), &crash.kernel);
}

/// Journals of versions that Linux does not make any more, written by debugfs.
#[test]
fn journals_of_all_versions_are_replayed_as_the_kernel_does() {
    for version in ["-v 1", "-c -v 2", "-c -v 3"] {
        let image = Image::make(16, &["mkfs.ext4", "-b", "1024"]);
        let mount = image.mount("rw");
        fs::write(mount.path().join("file"), [1; 3000]).unwrap();
        drop(mount);
        let dir = image.path.parent().unwrap();
        let new = dir.join("new");
        fs::write(&new, [2; 1024]).unwrap();
        let ask = |line: &str| {
            let out = Command::new("debugfs")
                .args(["-R", line])
                .arg(&image.path)
                .output();
            String::from_utf8(out.unwrap().stdout).unwrap()
        };
        let blocks = ask("blocks /file");
        let block = blocks.split_whitespace().nth(1).unwrap();
        let script = dir.join("script");
        let lines = format!("jo {version}\njw -b {block} {}\njc\n", new.display());
        fs::write(&script, lines).unwrap();
        run(Command::new("debugfs")
            .arg("-w")
            .arg("-f")
            .arg(&script)
            .arg(&image.path));
        let fs = image.ours();
        assert!(
            matches!(fs.facts().state, State::Replayed { .. }),
            "{version}"
        );
        let ours = view::ours(&*fs);
        let mount = image.mount("rw");
        assert_eq!(fs::read(mount.path().join("file")).unwrap()[1000..1100], {
            let mut want = [1; 100];
            want[24..].fill(2);
            want
        });
        view::assert_same(&ours, &view::kernel(mount.path()));
    }
}

/// Changes that a fast commit can hold, after one whole commit. Linux makes a whole commit of links
/// and device nodes.
fn small_changes(root: &Path) {
    for n in 0..50u64 {
        let path = root.join(format!("keeps/new-{n:03}"));
        synced(&path, &tree::noise(n + 1000, n as usize * 400));
    }
    let one = root.join("old/050");
    fs::hard_link(&one, root.join("second-name")).unwrap();
    fs::remove_file(root.join("old/051")).unwrap();
    let mut file = File::options().append(true).open(&one).unwrap();
    file.write_all(&tree::noise(50, 60_000)).unwrap();
    file.sync_all().unwrap();
    let cut = File::options().write(true).open(root.join("cut")).unwrap();
    for len in [123_456, 800_000, 100_000, 300_000] {
        cut.set_len(len).unwrap();
        cut.sync_all().unwrap();
    }
    fs::create_dir(root.join("made")).unwrap();
    synced(&root.join("made/inside"), b"new in new");
    fs::rename(root.join("keeps/new-001"), root.join("made/moved")).unwrap();
    fs::rename(root.join("keeps/new-002"), root.join("keeps/new-003")).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    let holed = File::options()
        .write(true)
        .open(root.join("old/055"))
        .unwrap();
    rustix::fs::fallocate(&holed, flags, 4096, 8192).unwrap();
    holed.sync_all().unwrap();
    fs::create_dir_all(root.join("made/then/gone")).unwrap();
    synced(&root.join("made/then/inside"), b"deep");
    fs::remove_dir(root.join("made/then/gone")).unwrap();
    synced(&root.join("last"), b"last");
}

/// What a fast commit does not hold of directories: the kernel makes it up while it replays.
fn but_for_directories(mut all: view::View) -> view::View {
    for seen in all.values_mut() {
        let stat = &mut seen.stat;
        // The kernel counts blocks anew.
        stat.allocated = None;
        if stat.file_type == FileType::Directory {
            (stat.modified, stat.changed, stat.accessed) = (None, None, None);
            (stat.links, stat.size) = (None, 0);
        }
    }
    all
}

#[test]
fn fast_commits_are_replayed_as_the_kernel_does() {
    let crash = crash(
        &["mkfs.ext4", "-b", "1024", "-O", "fast_commit"],
        "rw",
        false,
        small_changes,
    );
    let fs = ours(&crash.copy, &OpenOptions::default()).unwrap();
    let State::Replayed { reason } = &fs.facts().state else {
        panic!("{:?}", fs.facts());
    };
    let words: Vec<&str> = reason.split_whitespace().collect();
    let count: usize = words[words.len() - 3].parse().unwrap();
    assert!(count > 50 && reason.ends_with("fast commits"), "{reason}");
    let (ours, kernel) = (view::ours(&*fs), crash.kernel);
    view::assert_same(&but_for_directories(ours), &but_for_directories(kernel));
}

/// The places of the checksums that end fast commits.
fn fast_tails(image: &[u8]) -> Vec<usize> {
    let (first, block) = ([9, 0, 8, 0, 0, 0, 0, 0], 1024);
    let start = (0..image.len())
        .step_by(block)
        .find(|at| image[*at..].starts_with(&first));
    let (mut at, mut all) = (start.unwrap(), Vec::new());
    loop {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let (tag, len) = (word(at), word(at + 2) as usize);
        match tag {
            1..=7 | 9 => {}
            8 => all.push(at + 8),
            _ => return all,
        }
        at += 4 + len;
        if at % block > block - 4 {
            at = at.next_multiple_of(block);
        }
    }
}

#[test]
fn the_last_fast_commit_may_be_torn_and_no_other() {
    let crash = crash(
        &["mkfs.ext4", "-b", "1024", "-O", "fast_commit"],
        "rw",
        false,
        small_changes,
    );
    let image = fs::read(&crash.copy).unwrap();
    let tails = fast_tails(&image);
    assert!(tails.len() > 50, "{tails:?}");
    let torn = |at: usize| {
        let mut image = image.clone();
        image[at] ^= 1;
        let copy = crash.image.copy("torn");
        fs::write(&copy, image).unwrap();
        copy
    };
    let copy = torn(tails[tails.len() - 1]);
    let fs = ours(&copy, &OpenOptions::default()).unwrap();
    let ours_torn = view::ours(&*fs);
    let mount = Mount::new(&copy, "rw");
    let kernel = view::kernel(mount.path());
    assert!(!kernel.contains_key(&b"last"[..]) && crash.kernel.contains_key(&b"last"[..]));
    view::assert_same(
        &but_for_directories(ours_torn),
        &but_for_directories(kernel),
    );
    let refused = ours(&torn(tails[10]), &OpenOptions::default()).unwrap_err();
    assert!(refused.what.contains("fast commit is damaged"), "{refused}");
}

#[test]
fn a_journal_that_cannot_be_replayed_is_refused_unless_a_stale_view_is_accepted() {
    let crash = crash(&["mkfs.ext4", "-b", "4096"], "rw", true, change);
    let small = OpenOptions {
        replay_bytes: 8192,
        ..OpenOptions::default()
    };
    assert_eq!(
        ours(&crash.copy, &small).unwrap_err().kind,
        FaultKind::Stale
    );
    // One byte in the middle of the log is damage, not its end.
    let copy = crash.image.copy("broken");
    let mut bytes = fs::read(&crash.copy).unwrap();
    let commit = [&0xc03b_3998u32.to_be_bytes()[..], &2u32.to_be_bytes()].concat();
    let sequence = |at: usize| u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
    let mut commits: Vec<usize> = (0..bytes.len()).step_by(4096).collect();
    commits.retain(|at| bytes[*at..].starts_with(&commit));
    commits.sort_by_key(|at| sequence(*at));
    let at = commits[commits.len() - 5];
    bytes[at + 0x38] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let refused = ours(&copy, &OpenOptions::default()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Stale, "{refused}");
    let stale = OpenOptions {
        accept_stale: true,
        ..OpenOptions::default()
    };
    let fs = ours(&copy, &stale).unwrap();
    assert!(fs.facts().state.warning().unwrap().contains("checksum"));
}
