//! Images with some bits turned: whatever they say, the reader ends soon and does not panic.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fixture::{Image, run};
use super::tree;
use crate::guest::testing::look::look;
use crate::guest::{OpenOptions, open};

const RUNS: u64 = 100;
/// What one look at a broken image may take, on a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

fn fill(root: &Path) {
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..80u64 {
        fs::write(root.join(format!("dir/{n}")), vec![0x55; n as usize * 30]).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(root.join("dir/3"), "user.x", &[1; 300], flags).unwrap();
    std::os::unix::fs::symlink("x".repeat(100), root.join("link")).unwrap();
    let file = fs::File::create(root.join("holes")).unwrap();
    for n in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 10], n * 8192).unwrap();
    }
}

/// Turns some bits of the blocks in use and looks, again and again; how often it opened.
fn turn(image: &[u8], runs: std::ops::Range<u64>) -> usize {
    let used: Vec<usize> = (0..image.len() / 512)
        .filter(|n| {
            image[n * 512..][..512]
                .iter()
                .any(|b| !matches!(b, 0 | 0x55))
        })
        .collect();
    let mut opened = 0;
    for seed in runs {
        let mut bytes = image.to_vec();
        for pair in tree::noise(seed + 1, 8 * (1 + seed as usize % 6)).chunks(8) {
            let pick = u64::from_le_bytes(pair.try_into().unwrap()) as usize;
            let at = used[pick % used.len()] * 512 + (pick >> 24) % 512;
            bytes[at] ^= 1 << (pick >> 40 & 7);
        }
        let began = Instant::now();
        let options = OpenOptions {
            accept_stale: seed % 2 == 0,
            replay_bytes: 4 << 20,
        };
        if let Ok(fs) = open(Arc::new(bytes), &options) {
            look(&*fs, 2000, 100, 50);
            opened += 1;
        }
        assert!(
            began.elapsed() < LONGEST,
            "seed {seed} took {:?}",
            began.elapsed()
        );
    }
    opened
}

#[test]
fn turned_bits_in_ext4_end_in_answers() {
    for features in [
        "^metadata_csum,inline_data",
        "^metadata_csum,^64bit,^extent",
        "metadata_csum",
    ] {
        let image = Image::make(4, &["mkfs.ext4", "-b", "1024", "-N", "256", "-O", features]);
        let mount = image.mount("rw");
        fill(mount.path());
        drop(mount);
        let opened = turn(&fs::read(&image.path).unwrap(), 0..RUNS);
        assert!(opened > 20, "{features}: {opened}");
    }
}

#[test]
fn turned_bits_in_journals_end_in_answers() {
    for (features, shutdown) in [
        ("^metadata_csum", "shutdown -f"),
        ("metadata_csum", "shutdown -f"),
        ("^metadata_csum,fast_commit", "shutdown"),
    ] {
        let image = Image::make(8, &["mkfs.ext4", "-b", "1024", "-N", "256", "-O", features]);
        let mount = image.mount("rw");
        fs::write(mount.path().join("first"), b"").unwrap();
        rustix::fs::syncfs(fs::File::open(mount.path()).unwrap()).unwrap();
        fill(mount.path());
        fs::File::open(mount.path().join("dir/7"))
            .unwrap()
            .sync_all()
            .unwrap();
        run(Command::new("xfs_io")
            .args(["-x", "-c", shutdown])
            .arg(mount.path()));
        let bytes = fs::read(&image.path).unwrap();
        drop(mount);
        let opened = turn(&bytes, 0..RUNS);
        assert!(opened > 20, "{features}: {opened}");
    }
}
