//! Unmounted file systems with all kinds of features.

use std::process::Command;

use super::fixture::{Image, run};
use super::{tree, view};
use crate::guest::{FaultKind, FileType, State};

/// Fills an image and compares every entry with the kernel's mount.
fn compare(kind: &str, mib: u64, mkfs: &[&str]) -> Image {
    let image = Image::make(mib, mkfs);
    let mount = image.mount("rw");
    tree::fill(mount.path());
    drop(mount);
    let kernel = {
        let mount = image.mount("ro");
        view::kernel(mount.path())
    };
    assert!(kernel.len() > 1600, "{}", kernel.len());
    let fs = image.ours();
    assert_eq!(fs.facts().kind, kind);
    assert_eq!(fs.facts().state, State::Clean);
    view::assert_same(&view::ours(&*fs), &kernel);
    image
}

#[test]
fn ext4_reads_as_the_kernel_shows_it() {
    let image = compare("ext4", 64, &["mkfs.ext4", "-b", "4096", "-L", "a label"]);
    let fs = image.ours();
    assert_eq!(fs.facts().label.as_deref(), Some("a label"));
    assert_eq!(fs.facts().block_size, 4096);
    assert_eq!(fs.facts().size, 64 << 20);
}

#[test]
fn ext4_with_content_in_inodes_and_small_blocks_reads_as_the_kernel_shows_it() {
    compare(
        "ext4",
        64,
        &["mkfs.ext4", "-b", "1024", "-I", "256", "-O", "inline_data"],
    );
}

#[test]
fn ext4_with_large_inodes_and_values_in_inodes_reads_as_the_kernel_shows_it() {
    let options = [
        "-b",
        "4096",
        "-I",
        "1024",
        "-O",
        "inline_data,ea_inode,large_dir,metadata_csum_seed",
    ];
    let image = compare("ext4", 64, &[&["mkfs.ext4"][..], &options].concat());
    let mount = image.mount("rw");
    let path = mount.path().join("long-value");
    std::fs::write(&path, b"").unwrap();
    let value = tree::noise(5, 40_000);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(&path, "user.long", &value, flags).unwrap();
    drop(mount);
    let fs = image.ours();
    let node = fs.lookup(fs.root(), b"long-value").unwrap().node;
    let found = fs.xattrs(node).unwrap();
    assert_eq!((found.len(), &found[0].value), (1, &value));
    // Checksums begin with what they began with, whatever the file system is called now.
    let (before, called) = (view::ours(&*fs), fs.facts().uuid.clone());
    run(Command::new("tune2fs")
        .args(["-U", "random"])
        .arg(&image.path));
    let fs = image.ours();
    assert_ne!(fs.facts().uuid, called);
    view::assert_same(&view::ours(&*fs), &before);
}

#[test]
fn ext4_in_meta_groups_without_checksums_reads_as_the_kernel_shows_it() {
    let features = "meta_bg,^resize_inode,^metadata_csum,^flex_bg,uninit_bg,sparse_super2";
    compare(
        "ext4",
        96,
        &["mkfs.ext4", "-b", "1024", "-g", "2048", "-O", features],
    );
}

#[test]
fn ext4_with_large_allocation_units_reads_as_the_kernel_shows_it() {
    compare(
        "ext4",
        96,
        &[
            "mkfs.ext4",
            "-b",
            "4096",
            "-C",
            "16384",
            "-O",
            "bigalloc,encrypt,^64bit",
        ],
    );
}

#[test]
fn ext3_with_the_oldest_inodes_reads_as_the_kernel_shows_it() {
    compare("ext3", 96, &["mkfs.ext3", "-b", "1024", "-I", "128"]);
}

#[test]
fn ext2_reads_as_the_kernel_shows_it() {
    compare(
        "ext2",
        64,
        &["mkfs.ext2", "-b", "4096", "-O", "^dir_index,^filetype"],
    );
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let image = Image::make(8, &["mkfs.ext4", "-O", "^metadata_csum,^has_journal"]);
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes[1024 + 0x60] |= 1;
    let refused = crate::guest::open(std::sync::Arc::new(bytes), &Default::default());
    assert!(refused.unwrap_err().what.contains("compression"));
    // A journal elsewhere, and something in it.
    let mut bytes = std::fs::read(&image.path).unwrap();
    bytes[1024 + 0x5c] |= 4;
    bytes[1024 + 0x60] |= 4;
    let refused = crate::guest::open(std::sync::Arc::new(bytes), &Default::default());
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, FaultKind::Stale);
    assert!(refused.what.contains("another device"), "{refused}");
    let mount = image.mount("rw");
    std::fs::write(mount.path().join("secret"), b"encrypted").unwrap();
    drop(mount);
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-R", "set_inode_field secret flags 0x80800"]);
    run(debugfs.arg(&image.path));
    let fs = image.ours();
    let root = fs.root();
    let secret = fs.lookup(root, b"secret").unwrap().node;
    assert_eq!(fs.stat(secret).unwrap().size, 9);
    let refused = fs.read(secret, None, 0, &mut [0; 9]).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unsupported);
    assert!(refused.what.contains("encrypted"), "{refused}");
    assert!(fs.link(root).is_err() && fs.read(root, None, 0, &mut [0]).is_err());
    assert!(fs.stat(crate::guest::NodeId(u64::MAX)).is_err());
    assert!(fs.stat(crate::guest::NodeId(8)).is_err());
    assert!(fs.lookup(root, b"..").is_err());
    let found = fs.lookup(root, b"lost+found").unwrap();
    assert_eq!(found.file_type, Some(FileType::Directory));
}
