//! Images with some bits turned, seals not looked at: whatever they say, the reader ends soon and
//! does not panic.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are the test's own"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, lsetxattr};

use super::fixture::{Image, OnDisk};
use super::tree;
use crate::guest::testing::look::look;
use crate::guest::{Blocks, OpenOptions, Overlay};

const RUNS: u64 = 150;
/// What one look at a broken image may take, on a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn turned_bits_in_xfs_end_in_answers() {
    let image = Image::make(300, &["mkfs.xfs", "-b", "size=1024"]);
    let mount = image.mount("rw");
    let root = mount.path();
    fs::create_dir(root.join("dir")).unwrap();
    for n in 0..80usize {
        fs::write(root.join(format!("dir/{n}")), vec![0x55; n * 30]).unwrap();
    }
    for n in 0..40usize {
        let value = tree::noise(n as u64, n * 50);
        let name = format!("user.{n}");
        lsetxattr(root.join("dir/3"), name, &value, XattrFlags::empty()).unwrap();
    }
    std::os::unix::fs::symlink("x".repeat(900), root.join("link")).unwrap();
    let file = File::create(root.join("holes")).unwrap();
    for n in 0..60 {
        file.write_all_at(&[0x55; 10], n * 8192).unwrap();
    }
    drop(file);
    drop(mount);
    let disk: Arc<dyn Blocks> = Arc::new(OnDisk::new(&image.path));
    // Metadata: what is neither empty nor content. The log begins in the middle of the volume.
    let front = disk.bytes(0, 4 << 20).unwrap();
    let used: Vec<usize> = (0..front.len() / 512)
        .filter(|n| {
            front[n * 512..][..512]
                .iter()
                .any(|b| !matches!(b, 0 | 0x55))
        })
        .collect();
    let (mut opened, mut sealed) = (0, 0);
    for seed in 0..RUNS {
        let mut turned = Overlay::new(Arc::clone(&disk), 512, 1 << 20);
        for pair in tree::noise(seed + 1, 8 * (4 + seed as usize % 20)).chunks(8) {
            let pick = u64::from_le_bytes(pair.try_into().unwrap()) as usize;
            let at = used[pick % used.len()] * 512 + (pick >> 24) % 512;
            let byte = turned.bytes(at as u64, 1).unwrap()[0] ^ 1 << (pick >> 40 & 7);
            turned.patch(at as u64, &[byte]).unwrap();
        }
        let turned: Arc<dyn Blocks> = Arc::new(turned);
        let options = OpenOptions {
            accept_stale: true,
            ..OpenOptions::default()
        };
        let began = Instant::now();
        if let Ok(fs) = super::super::open_checked(Arc::clone(&turned), &options, false) {
            look(&*fs, 500, 50, 20);
            opened += 1;
        }
        if let Ok(fs) = super::super::open_checked(turned, &options, true) {
            look(&*fs, 500, 50, 20);
            sealed += 1;
        }
        assert!(
            began.elapsed() < LONGEST,
            "seed {seed} took {:?}",
            began.elapsed()
        );
    }
    assert!(opened > 20 && sealed > 5, "{opened} {sealed}");
}
