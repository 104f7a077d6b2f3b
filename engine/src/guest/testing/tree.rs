//! A tree with a little of everything that a guest has.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are the tests' own"
)]

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{self as unix, FileExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, XattrFlags, fallocate, lsetxattr, mknodat};

/// Bytes without a pattern, the same for the same seed.
pub(in crate::guest) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .take(len)
        .collect()
}

pub(in crate::guest) fn fill(root: &Path) {
    files(root);
    names(root);
    links(root);
    special(root);
    sparse(root);
    owners(root);
    attributes(root);
}

fn files(root: &Path) {
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..1500u64 {
        fs::write(
            many.join(format!("file-{n:05}")),
            noise(n, (n % 3 * 10) as usize),
        )
        .unwrap();
    }
    for n in (0..1500).step_by(7) {
        fs::remove_file(many.join(format!("file-{n:05}"))).unwrap();
    }
    let sizes = root.join("sizes");
    fs::create_dir(&sizes).unwrap();
    for n in 0..160u64 {
        let len = if n < 80 { n * 3 } else { (n - 80) * 877 };
        fs::write(sizes.join(n.to_string()), noise(n, len as usize)).unwrap();
    }
    fs::write(root.join("large"), noise(1, 5 << 20)).unwrap();
    let deep = (0..50).fold(root.join("deep"), |path, n| path.join(format!("d{n}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"far down").unwrap();
    // A directory within its inode, where the format can: it grows into the attributes.
    for n in 0..8 {
        let dir = root.join(format!("small-{n}"));
        fs::create_dir(&dir).unwrap();
        for m in 0..n {
            fs::write(dir.join(format!("entry-{m}")), m.to_string()).unwrap();
        }
    }
}

fn names(root: &Path) {
    let dir = root.join("names");
    fs::create_dir(&dir).unwrap();
    let long = "x".repeat(255);
    let all: [&[u8]; 8] = [
        "grün-日本".as_bytes(),
        "cafe\u{301}".as_bytes(),
        "caf\u{e9}".as_bytes(),
        b"line\nbreak",
        b"\xff\xfe not utf-8",
        b" ",
        b"...",
        long.as_bytes(),
    ];
    for name in all {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn links(root: &Path) {
    let dir = root.join("links");
    fs::create_dir(&dir).unwrap();
    fs::hard_link(root.join("large"), dir.join("hard")).unwrap();
    unix::symlink("/etc/shadow", dir.join("absolute")).unwrap();
    unix::symlink("../../../..", dir.join("escaping")).unwrap();
    for len in [1, 58, 59, 60, 61, 155, 156, 157, 1000] {
        let name = dir.join(format!("link-{len}"));
        unix::symlink("t".repeat(len), &name).unwrap();
        let value = vec![7u8; len.min(400)];
        lsetxattr(&name, "trusted.on-link", &value, XattrFlags::empty()).unwrap();
        unix::symlink("u".repeat(len), dir.join(format!("plain-{len}"))).unwrap();
    }
}

fn special(root: &Path) {
    let dir = root.join("special");
    fs::create_dir(&dir).unwrap();
    let make = |name: &str, kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        mknodat(CWD, dir.join(name), kind, Mode::from(0o640), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0, 0);
    make("socket", FileType::Socket, 0, 0);
    make("char", FileType::CharacterDevice, 1, 3);
    make("block", FileType::BlockDevice, 8, 17);
    make("far", FileType::CharacterDevice, 300, 70_000);
}

fn sparse(root: &Path) {
    let new = |name: &str| File::create(root.join(name)).unwrap();
    let holes = new("holes");
    for n in 0..500u64 {
        holes.write_all_at(&noise(n, 700), n * 16_384).unwrap();
    }
    let huge = new("huge");
    huge.set_len(6 << 30).unwrap();
    huge.write_all_at(b"at five GiB", 5 << 30).unwrap();
    huge.write_all_at(&noise(3, 100_000), 77_777).unwrap();
    let ahead = new("ahead");
    // Where the format cannot allocate ahead it says so; then the file is an ordinary one.
    let _ = fallocate(&ahead, FallocateFlags::empty(), 0, 300_000);
    ahead.write_all_at(&noise(4, 10_000), 50_000).unwrap();
    let kept = new("kept");
    let _ = fallocate(&kept, FallocateFlags::KEEP_SIZE, 0, 300_000);
    kept.write_all_at(b"short", 0).unwrap();
    let (left, right) = (new("left"), new("right"));
    for n in 0..30u64 {
        for file in [&left, &right] {
            file.write_all_at(&noise(n, 4096), n * 4096).unwrap();
            file.sync_data().unwrap();
        }
    }
    drop((left, right));
    fs::remove_file(root.join("right")).unwrap();
}

fn owners(root: &Path) {
    let dir = root.join("owners");
    fs::create_dir(&dir).unwrap();
    for (n, mode) in [0o4755, 0o2711, 0o1777, 0o000].into_iter().enumerate() {
        let path = dir.join(n.to_string());
        fs::write(&path, b"").unwrap();
        unix::chown(&path, Some(70_000 + n as u32), Some(1_000_000)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    let years = |n: u64| Duration::new(n * 365 * 86_400, 123_456_789);
    for (name, time) in [
        ("1950", SystemTime::UNIX_EPOCH - years(20)),
        ("2030", SystemTime::UNIX_EPOCH + years(60)),
        ("2100", SystemTime::UNIX_EPOCH + years(130)),
    ] {
        let file = File::create(dir.join(name)).unwrap();
        let times = fs::FileTimes::new().set_modified(time).set_accessed(time);
        file.set_times(times).unwrap();
    }
}

fn attributes(root: &Path) {
    let dir = root.join("attributes");
    fs::create_dir(&dir).unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    for n in 0..30usize {
        let path = dir.join(n.to_string());
        fs::write(&path, noise(n as u64, n * 20)).unwrap();
        set(&path, "user.one", &noise(1, n * 10));
        set(&path, "user.empty", b"");
        if n % 3 == 0 {
            set(&path, "user.two", &noise(2, 300));
            set(&path, "trusted.three", b"3");
            set(&path, "security.four", b"4");
        }
    }
    // Owner, a user, the group, a group, the mask and others.
    let list: Vec<u8> = [
        (0x01u16, 7u16, !0u32),
        (0x02, 5, 1234),
        (0x04, 4, !0),
        (0x08, 6, 100_000),
        (0x10, 7, !0),
        (0x20, 1, !0),
    ]
    .iter()
    .flat_map(|(tag, perm, id)| {
        let (tag, perm, id) = (tag.to_le_bytes(), perm.to_le_bytes(), id.to_le_bytes());
        [tag.as_slice(), &perm, &id].concat()
    })
    .collect();
    let list = [&2u32.to_le_bytes()[..], &list].concat();
    set(&dir, "system.posix_acl_default", &list);
    set(&dir, "system.posix_acl_access", &list);
    fs::write(dir.join("inherits"), b"").unwrap();
}
