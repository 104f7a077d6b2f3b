//! Unmounted file systems with all kinds of sizes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{XattrFlags, lsetxattr};

use super::fixture::{Image, run};
use super::{tree, view};
use crate::guest::{FaultKind, State};

/// What stands in trees: many attributes, long values, many extents, a large directory.
fn fill(root: &Path) {
    tree::fill(root);
    let many = root.join("many-attributes");
    fs::write(&many, b"").unwrap();
    for n in 0..900u32 {
        let name = format!("user.{}-{n}", "n".repeat(40));
        let value = tree::noise(u64::from(n), 100);
        lsetxattr(&many, name, &value, XattrFlags::empty()).unwrap();
    }
    let long = root.join("long-values");
    fs::write(&long, b"").unwrap();
    for (n, len) in [2000, 4040, 4041, 20_000, 65_536].into_iter().enumerate() {
        let value = tree::noise(n as u64, len);
        let name = format!("trusted.long-{n}");
        lsetxattr(&long, name, &value, XattrFlags::empty()).unwrap();
    }
    let holes = File::create(root.join("more-holes")).unwrap();
    for n in 0..1500u64 {
        holes.write_all_at(&n.to_le_bytes(), n * 8192).unwrap();
    }
    let names = root.join("long-names");
    fs::create_dir(&names).unwrap();
    for n in 0..1200 {
        fs::write(names.join(format!("{n:0>200}")), b"").unwrap();
    }
    for n in 100..500 {
        fs::remove_file(names.join(format!("{n:0>200}"))).unwrap();
    }
}

/// The kernel shows an access list to root a second time, under the name on the disk.
fn kernel(root: &Path) -> view::View {
    let mut view = view::kernel(root);
    for seen in view.values_mut() {
        seen.xattrs
            .retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    view
}

/// Fills an image and compares every entry with the kernel's mount.
fn compare(mkfs: &[&str]) -> Image {
    let image = Image::make(320, &[&["mkfs.xfs"][..], mkfs].concat());
    let mount = image.mount("rw");
    fill(mount.path());
    drop(mount);
    let kernel = {
        let mount = image.mount("ro");
        kernel(mount.path())
    };
    assert!(kernel.len() > 2400, "{}", kernel.len());
    let fs = image.ours();
    assert_eq!(fs.facts().state, State::Clean);
    view::assert_same(&view::ours(&*fs), &kernel);
    image
}

#[test]
fn xfs_reads_as_the_kernel_shows_it() {
    let image = compare(&["-L", "a label", "-b", "size=4096"]);
    let fs = image.ours();
    assert_eq!(fs.facts().kind, "xfs");
    assert_eq!(fs.facts().label.as_deref(), Some("a label"));
    assert_eq!((fs.facts().block_size, fs.facts().size), (4096, 320 << 20));
    assert!(fs.lookup(fs.root(), b"..").is_err());
    assert!(fs.stat(crate::guest::NodeId(u64::MAX)).is_err());
    // What the metadata belongs to stays, whatever the file system is called now.
    let (before, called) = (view::ours(&*fs), fs.facts().uuid.clone());
    run(Command::new("xfs_admin")
        .args(["-U", "generate"])
        .arg(&image.path));
    let fs = image.ours();
    assert_ne!(fs.facts().uuid, called);
    view::assert_same(&view::ours(&*fs), &before);
}

#[test]
fn xfs_with_large_inodes_directories_and_counters_reads_as_the_kernel_shows_it() {
    compare(&["-i", "size=1024,nrext64=1", "-n", "size=8192"]);
}

#[test]
fn xfs_with_small_blocks_and_old_times_reads_as_the_kernel_shows_it() {
    let image = compare(&[
        "-b",
        "size=1024",
        "-m",
        "bigtime=0,reflink=0",
        "-n",
        "size=4096",
    ]);
    let fs = image.ours();
    assert_eq!(fs.facts().block_size, 1024);
}

#[test]
fn xfs_that_was_never_mounted_is_clean_and_empty() {
    let image = Image::make(300, &["mkfs.xfs"]);
    let fs = image.ours();
    assert_eq!(fs.facts().state, State::Clean);
    let page = fs.list(fs.root(), Default::default(), 10).unwrap();
    assert!(page.entries.is_empty() && page.next.is_none());
}

#[test]
fn xfs_that_is_not_read_is_refused_by_name() {
    let image = Image::make(300, &["mkfs.xfs"]);
    let front = || {
        let mut bytes = vec![0; 1 << 20];
        let file = File::open(&image.path).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let refused = |bytes: Vec<u8>, verify| {
        super::super::open_checked(Arc::new(bytes), &Default::default(), verify).unwrap_err()
    };
    let mut old = front();
    old[101] = old[101] & 0xf0 | 4;
    let fault = refused(old, true);
    assert_eq!(fault.kind, FaultKind::Unsupported);
    assert!(fault.what.contains("version 4"), "{fault}");
    for (at, bit, name) in [
        (219, 0x10, "needsrepair"),
        (218, 1, "metadir"),
        (216, 1, "bits"),
    ] {
        let mut bytes = front();
        bytes[at] |= bit;
        assert_eq!(refused(bytes.clone(), true).kind, FaultKind::Damaged);
        let fault = refused(bytes, false);
        assert_eq!(fault.kind, FaultKind::Unsupported);
        assert!(fault.what.contains(name), "{fault}");
    }
}
