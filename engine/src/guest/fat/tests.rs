//! Images made by mkfs.fat and mtools; what mtools copies out again is what has to be seen.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are the tests' own"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::guest::walk::{Step, Walk};
use crate::guest::{Cursor, FaultKind, FileSystem, OpenOptions, Result, State, open};

fn run(command: &mut Command) {
    let done = command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}; see tests/run"));
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// Bytes that do not repeat, always the same for a seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// An image with a label and a serial number.
struct Image {
    dir: TempDir,
    path: PathBuf,
}

impl Image {
    fn make(kib: u64, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        File::create(&path).unwrap().set_len(kib << 10).unwrap();
        let mut mkfs = Command::new("mkfs.fat");
        mkfs.args(["-n", "A LABEL", "-i", "1234abcd"]).args(options);
        run(mkfs.arg(&path));
        Self { dir, path }
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("-i").arg(&self.path);
        command
    }

    /// Copies what stands in a directory of the host into the root.
    fn fill(&self, from: &Path) {
        let names = fs::read_dir(from).unwrap().map(|e| e.unwrap().path());
        run(self
            .tool("mcopy")
            .args(["-s", "-m", "-Q"])
            .args(names)
            .arg("::/"));
    }

    /// What mtools copies out.
    fn theirs(&self) -> View {
        let to = self.dir.path().join("out");
        fs::create_dir(&to).unwrap();
        run(self.tool("mcopy").args(["-s", "-m", "-n", "::/"]).arg(&to));
        let mut view = View::new();
        let mut left = vec![to.clone()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let inner = path.strip_prefix(&to).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    view.insert(inner, None);
                    left.push(path);
                } else {
                    let time = fs::metadata(&path).unwrap().modified().unwrap();
                    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    view.insert(inner, Some((fs::read(path).unwrap(), time.as_secs())));
                }
            }
        }
        view
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

/// Paths; content and time of files.
type View = BTreeMap<String, Option<(Vec<u8>, u64)>>;

fn opened(bytes: Vec<u8>) -> Result<Box<dyn FileSystem>> {
    open(Arc::new(bytes), &OpenOptions::default())
}

fn ours(fs: &dyn FileSystem) -> View {
    let mut view = View::new();
    for step in Walk::new(fs, Vec::new(), fs.root(), true) {
        match step {
            Step::Enter(item) if !item.path.is_empty() => {
                view.insert(String::from_utf8(item.path).unwrap(), None);
            }
            Step::Node(item) => {
                // In odd pieces, and more than there is.
                let (mut all, mut piece) = (Vec::new(), vec![0; 70_001]);
                loop {
                    let at = all.len() as u64;
                    let got = fs.read(item.node, None, at, &mut piece).unwrap();
                    all.extend_from_slice(&piece[..got]);
                    if got < piece.len() {
                        break;
                    }
                }
                assert_eq!(all.len() as u64, item.stat.size);
                let time = item.stat.modified.unwrap().seconds.cast_unsigned();
                view.insert(String::from_utf8(item.path).unwrap(), Some((all, time)));
            }
            Step::Enter(_) | Step::Leave(_) => {}
            Step::Fault { path, fault } => panic!("{}: {fault}", path.escape_ascii()),
        }
    }
    view
}

/// A tree of about so many bytes: deep, with names of all lengths, and holes in between.
fn fill(image: &Image, files: u64, scale: usize) {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    let deep: PathBuf = (0..20).map(|n| format!("Ebene {n}")).collect();
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    let write = |path: PathBuf, seed: u64, len: usize| {
        fs::write(&path, noise(seed, len)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seed * 86_402);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    for n in 0..files {
        let name = format!("many/file number {n} of many.dat");
        write(root.join(name), n, (n as usize * 37) % (scale + 1));
    }
    write(root.join("UPPER.TXT"), 1, 0);
    write(root.join("lower.txt"), 2, 512);
    write(root.join("Grüße aus 東京 ☃.text"), 3, 513);
    write(root.join("x".repeat(255)), 4, 1);
    write(root.join(deep).join("bottom"), 5, scale * 3);
    image.fill(root);
    // Room between others, for a file in many pieces.
    for n in (0..files).step_by(3) {
        let name = format!("::/many/file number {n} of many.dat");
        run(image.tool("mdel").arg(name));
    }
    write(root.join("pieces"), 6, scale * 20);
    run(image
        .tool("mcopy")
        .arg("-m")
        .arg(root.join("pieces"))
        .arg("::/"));
}

fn compare(kind: &str, kib: u64, options: &[&str], files: u64, scale: usize) -> Image {
    let image = Image::make(kib, options);
    fill(&image, files, scale);
    let theirs = image.theirs();
    assert!(theirs.len() as u64 > files / 2, "{}", theirs.len());
    assert!(
        theirs.contains_key("Grüße aus 東京 ☃.text"),
        "the oracle's names"
    );
    let fs = opened(image.bytes()).unwrap();
    let mine = ours(&*fs);
    assert!(
        mine.keys().eq(theirs.keys()),
        "{:?}\n{:?}",
        mine.keys(),
        theirs.keys()
    );
    for (path, what) in &theirs {
        assert!(mine.get(path) == Some(what), "{path} differs");
    }
    let facts = fs.facts();
    assert_eq!((facts.kind.as_str(), &facts.state), (kind, &State::Clean));
    assert_eq!(facts.label.as_deref(), Some("A LABEL"));
    assert_eq!(facts.uuid.as_deref(), Some("1234-ABCD"));
    image
}

#[test]
fn fat12_reads_as_mtools_shows_it() {
    compare("fat12", 1440, &["-F", "12"], 150, 4000);
}

#[test]
fn fat16_reads_as_mtools_shows_it() {
    compare("fat16", 16 << 10, &["-F", "16", "-s", "1"], 400, 9000);
}

#[test]
fn fat32_reads_as_mtools_shows_it() {
    compare("fat32", 40 << 10, &["-F", "32", "-s", "1"], 400, 20_000);
}

#[test]
fn fat32_with_large_sectors_reads_as_mtools_shows_it() {
    let options = ["-F", "32", "-S", "1024", "-s", "1"];
    compare("fat32", 72 << 10, &options, 200, 9000);
}

#[test]
fn a_fat32_with_few_clusters_is_fat32_and_a_cut_one_is_refused() {
    let image = Image::make(8 << 10, &["-F", "32", "-s", "1"]);
    let mut bytes = image.bytes();
    let fs = opened(bytes.clone()).unwrap();
    assert_eq!(fs.facts().kind, "fat32");
    assert_eq!(ours(&*fs), View::new());
    bytes.truncate(bytes.len() - 512);
    assert_eq!(opened(bytes).unwrap_err().kind, FaultKind::Damaged);
}

#[test]
fn names_are_found_in_any_case_and_pages_end_anywhere() {
    let image = compare("fat16", 16 << 10, &["-F", "16", "-s", "1"], 50, 500);
    run(image.tool("mattrib").args(["+h", "+r", "::/UPPER.TXT"]));
    let fs = opened(image.bytes()).unwrap();
    let root = fs.root();
    for (name, is) in [
        ("UPPER.TXT", "UPPER.TXT"),
        ("Upper.txt", "UPPER.TXT"),
        ("LOWER.TXT", "lower.txt"),
        ("GRÜSSE", ""),
        ("grÜße AUS 東京 ☃.TEXT", "Grüße aus 東京 ☃.text"),
        ("..", ""),
    ] {
        let found = fs.lookup(root, name.as_bytes());
        match is {
            "" => assert_eq!(found.unwrap_err().kind, FaultKind::NotFound),
            _ => assert_eq!(found.unwrap().name, is.as_bytes()),
        }
    }
    let upper = fs.lookup(root, b"upper.txt").unwrap().node;
    assert_eq!(fs.stat(upper).unwrap().dos_attributes, Some(0x23));
    let all = fs.list(root, Cursor::default(), 1000).unwrap().entries;
    for most in [1, 2, 3] {
        let (mut from, mut found) = (Some(Cursor::default()), Vec::new());
        while let Some(at) = from {
            let page = fs.list(root, at, most).unwrap();
            assert!(page.entries.len() <= most);
            found.extend(page.entries);
            from = page.next;
        }
        assert_eq!(found, all);
    }
    assert_eq!(
        fs.read(root, None, 0, &mut [0]).unwrap_err().kind,
        FaultKind::WrongType
    );
    assert_eq!(
        fs.list(upper, Cursor(0), 1).unwrap_err().kind,
        FaultKind::WrongType
    );
    for node in [1, 31, 512, u64::MAX, u64::MAX - 31] {
        let refused = fs.stat(crate::guest::NodeId(node)).unwrap_err();
        assert_eq!(refused.kind, FaultKind::NotFound, "{node}");
    }
}

/// A FAT16 with one file of four clusters, 2 to 5, and a directory in 6.
fn small() -> (Image, usize) {
    let image = Image::make(4 << 10, &["-F", "16", "-s", "1"]);
    let file = image.dir.path().join("file");
    fs::write(&file, noise(1, 2000)).unwrap();
    run(image.tool("mcopy").arg(file).arg("::/"));
    run(image.tool("mmd").arg("::/dir"));
    let bytes = image.bytes();
    let table = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
    (image, table)
}

#[test]
fn chains_that_loop_end_early_or_lead_outside_are_damage() {
    let (image, table) = small();
    let good = image.bytes();
    let set = |cluster: usize, next: u16| {
        let mut bytes = good.clone();
        assert_ne!(bytes[table + cluster * 2..][..2], [0, 0], "not in use");
        bytes[table + cluster * 2..][..2].copy_from_slice(&next.to_le_bytes());
        opened(bytes).unwrap()
    };
    let read = |fs: &dyn FileSystem| {
        let node = fs.lookup(fs.root(), b"file").unwrap().node;
        fs.read(node, None, 0, &mut [0; 3000])
    };
    assert_eq!(read(&*set(5, 0xffff)).unwrap(), 2000);
    for (cluster, next) in [
        (5, 2),
        (3, 2),
        (4, 0xffff),
        (4, 0),
        (4, 1),
        (4, 60_000),
        (4, 0xfff7),
    ] {
        let fault = read(&*set(cluster, next)).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Damaged, "{cluster} {next}: {fault}");
    }
    for next in [6, 0, 60_000] {
        let fs = set(6, next);
        let dir = fs.lookup(fs.root(), b"dir").unwrap().node;
        let fault = fs.list(dir, Cursor::default(), 10).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Damaged, "{next}: {fault}");
    }
    // A boot sector whose numbers do not fit.
    for (at, value) in [(13, 3), (14, 0), (20, 0xff), (23, 0xff)] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(opened(bytes).is_err(), "{at}");
    }
}

#[test]
fn a_long_name_that_does_not_belong_to_its_short_one_is_not_shown() {
    let (image, _) = small();
    let file = image.dir.path().join("a long name.text");
    fs::write(&file, b"x").unwrap();
    run(image.tool("mcopy").arg(file).arg("::/"));
    let good = image.bytes();
    let at = good.windows(11).position(|w| w == b"ALONGN~1TEX").unwrap();
    let names = |bytes: Vec<u8>| {
        let fs = opened(bytes).unwrap();
        let page = fs.list(fs.root(), Cursor::default(), 10).unwrap();
        page.entries.into_iter().map(|e| e.name).collect::<Vec<_>>()
    };
    assert!(names(good.clone()).contains(&b"a long name.text".to_vec()));
    for change in [at - 32 + 13, at - 32, at - 64 + 13, at - 64] {
        let mut bytes = good.clone();
        bytes[change] ^= 0x05;
        assert!(names(bytes).contains(&b"ALONGN~1.TEX".to_vec()), "{change}");
    }
}

#[test]
fn images_with_turned_bits_end_soon_without_a_panic() {
    for (kib, runs, options) in [(1440, 100, ["-F", "12"]), (40 << 10, 30, ["-F", "32"])] {
        let image = Image::make(kib, &[&options[..], &["-s", "1"]].concat());
        fill(&image, 60, 1500);
        let good = image.bytes();
        let meta: Vec<usize> = (0..good.len() / 512)
            .filter(|n| {
                let sector = &good[n * 512..][..512];
                sector.iter().filter(|b| **b == 0).count() > 20 && sector.iter().any(|b| *b != 0)
            })
            .collect();
        let mut opened_so_often = 0u64;
        for seed in 0..runs {
            let mut bytes = good.clone();
            for pick in noise(seed + 1, 8 * (1 + seed as usize % 8)).chunks(8) {
                let pick = usize::from_le_bytes(pick.try_into().unwrap());
                bytes[meta[pick % meta.len()] * 512 + (pick >> 24) % 512] ^= 1 << (pick >> 40 & 7);
            }
            let began = Instant::now();
            let Ok(fs) = opened(bytes) else { continue };
            opened_so_often += 1;
            for step in Walk::new(&*fs, Vec::new(), fs.root(), true).take(3000) {
                if let Step::Node(item) = step {
                    let mut at = 0;
                    while let Ok(got @ 1..) = fs.read(item.node, None, at, &mut [0; 9000]) {
                        at += got as u64;
                        assert!(at <= good.len() as u64, "seed {seed}: more than there is");
                    }
                }
            }
            assert!(began.elapsed() < Duration::from_secs(5), "seed {seed}");
        }
        assert!(opened_so_often > runs / 2, "{opened_so_often}");
    }
}
