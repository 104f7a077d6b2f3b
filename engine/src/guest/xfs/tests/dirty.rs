//! File systems that were shut down in the middle: their logs are not replayed, and that is said.

use std::fs::{self, File};
use std::process::Command;

use super::fixture::{Image, Mount, ours, run};
use crate::guest::{FaultKind, OpenOptions, State};

#[test]
fn a_dirty_xfs_is_refused_as_stale_and_shown_with_a_warning_where_that_is_accepted() {
    let image = Image::make(300, &["mkfs.xfs"]);
    let mount = image.mount("rw");
    fs::write(mount.path().join("before"), b"on the disk").unwrap();
    drop(mount);
    let mount = image.mount("rw");
    for n in 0..50 {
        let path = mount.path().join(format!("new-{n}"));
        fs::write(&path, b"in the log").unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
    }
    run(Command::new("xfs_io")
        .args(["-x", "-c", "shutdown -f"])
        .arg(mount.path()));
    let copy = image.copy("crashed");
    drop(mount);
    let refused = ours(&copy, &OpenOptions::default()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Stale, "{refused}");
    let accept = OpenOptions {
        accept_stale: true,
        ..OpenOptions::default()
    };
    let stale = ours(&copy, &accept).unwrap();
    assert!(matches!(stale.facts().state, State::Unreplayed { .. }));
    let root = stale.root();
    assert!(stale.lookup(root, b"before").is_ok());
    assert!(
        stale.lookup(root, b"new-7").is_err(),
        "the fixture proves nothing"
    );
    // The kernel replays it: then it is clean, and all is there.
    drop(Mount::new(&copy, "rw"));
    let fs = ours(&copy, &OpenOptions::default()).unwrap();
    assert_eq!(fs.facts().state, State::Clean);
    assert!(fs.lookup(fs.root(), b"new-7").is_ok());
}

#[test]
fn a_mounted_xfs_is_refused_as_stale() {
    let image = Image::make(300, &["mkfs.xfs"]);
    let mount = image.mount("rw");
    fs::write(mount.path().join("file"), b"").unwrap();
    rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
    let copy = image.copy("live");
    let refused = ours(&copy, &OpenOptions::default()).unwrap_err();
    assert_eq!(refused.kind, FaultKind::Stale, "{refused}");
}
