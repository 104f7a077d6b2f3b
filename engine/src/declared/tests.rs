//! Reloads against a registry, with real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sendense_formats::ClusterSize;
use sendense_formats::qcow2::{CreateOptions, Writer};
use sendense_nbd::{Peer, Refused};

use super::*;
use crate::plane::ExportRegistry;
use crate::storage::local::open_path;
use crate::storage::{Create, LockKind, LockedFile};

struct Site {
    dir: tempfile::TempDir,
    registry: Arc<ExportRegistry>,
    exports: DeclaredExports,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.img", "b.img"] {
            fs::write(dir.path().join(name), vec![7; 8192]).unwrap();
        }
        let registry = Arc::new(ExportRegistry::new());
        Self {
            exports: DeclaredExports::new(registry.clone()),
            dir,
            registry,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn reload(&self, text: &str) -> Result<ReloadReport, Vec<Problem>> {
        let file: PathBuf = self.dir.path().join("config");
        fs::write(&file, format!("[generic]\n{text}")).unwrap();
        self.exports.reload(Path::new(&file))
    }

    fn export(&self, name: &str, image: &str, more: &str) -> String {
        format!("[{name}]\nexportname = {}\n{more}\n", self.path(image))
    }

    fn names(&self) -> Vec<String> {
        let list = self.registry.list();
        list.into_iter()
            .filter(|i| !i.draining)
            .map(|i| i.name)
            .collect()
    }
}

#[test]
fn exports_appear_change_drain_and_come_back() {
    let site = Site::new();
    let a = site.export("a", "a.img", "");
    let report = site
        .reload(&(a.clone() + &site.export("b", "b.img", "readonly = true")))
        .unwrap();
    assert_eq!(report.added, ["a", "b"]);
    assert_eq!(site.names(), ["a", "b"]);
    assert!(site.registry.get("b").unwrap().info().read_only);

    // Nobody uses b: its change is applied.
    let report = site
        .reload(&(a.clone() + &site.export("b", "b.img", "trim = true")))
        .unwrap();
    assert_eq!(
        (report.unchanged, report.changed),
        (1, vec!["b".to_owned()])
    );
    assert!(site.registry.get("b").unwrap().info().can_trim);

    // a is in use: its change is refused for it alone, and b goes.
    let (_, guard) = site.registry.connect("a", &Peer::default()).unwrap();
    let report = site
        .reload(&site.export("a", "a.img", "readonly = true"))
        .unwrap();
    assert_eq!(report.removed, ["b"]);
    assert_eq!(report.refused.len(), 1);
    assert!(report.refused[0].1.contains("in use by 1"), "{report:?}");
    assert_eq!(site.exports.refused(), report.refused);
    assert!(!site.registry.get("a").unwrap().info().read_only);

    // Removed while in use: it drains, and cannot come back before it has.
    let report = site.reload("").unwrap();
    assert_eq!(report.removed, ["a"]);
    assert!(matches!(
        site.registry.connect("a", &Peer::default()).unwrap_err(),
        Refused::Shutdown(_)
    ));
    drop(guard);
    assert_eq!(site.reload(&a).unwrap().added, ["a"]);
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let site = Site::new();
    let a = site.export("a", "a.img", "");
    site.reload(&a).unwrap();
    let missing = site.export("c", "missing.img", "");
    for (text, why) in [
        ("nonsense\n".to_owned(), "neither a section"),
        (missing, "missing.img"),
        (
            site.export("b", "b.img", "prerun = rm"),
            "`prerun` is not supported",
        ),
        (
            site.export("b", "b.img", "filesize = 9000"),
            "less than its filesize",
        ),
        (site.export("b", "b.img", "format = qcow2"), "read-only"),
    ] {
        let problems = site.reload(&text).unwrap_err();
        assert!(problems[0].text.contains(why), "{problems:?}");
        assert_eq!(site.exports.last_problems(), problems);
        assert_eq!(site.names(), ["a"]);
    }
    site.reload(&a).unwrap();
    assert_eq!(site.exports.last_problems(), []);
}

#[test]
fn an_image_is_never_served_as_a_disk_unasked() {
    let site = Site::new();
    fs::write(site.path("q.img"), b"QFI\xfb and so on").unwrap();
    let problems = site.reload(&site.export("q", "q.img", "")).unwrap_err();
    assert!(problems[0].text.contains("begins like a QCOW2 image"));
    site.reload(&site.export("q", "q.img", "format = raw"))
        .unwrap();
}

#[test]
fn names_of_others_are_left_alone_and_one_disk_may_have_two_names() {
    let site = Site::new();
    site.reload(&site.export("a", "a.img", "")).unwrap();
    let other = site.registry.get("a").unwrap();
    let entry = sendense_nbd::registry::Entry::new(other);
    site.registry.declare("taken", entry).unwrap();
    let problems = site.reload(&site.export("taken", "b.img", "")).unwrap_err();
    assert!(problems[0].text.contains("no file declares"));
    let both = site.export("a", "a.img", "") + &site.export("ro", "a.img", "readonly = true");
    assert_eq!(site.reload(&both).unwrap().added, ["ro"]);
}

#[test]
fn a_bad_change_of_a_declared_export_changes_nothing_at_all() {
    let site = Site::new();
    let (a, b) = (
        site.export("a", "a.img", ""),
        site.export("b", "b.img", "readonly = true"),
    );
    fs::write(
        site.path("q.img"),
        [b"QFI\xfb".to_vec(), vec![9; 8188]].concat(),
    )
    .unwrap();
    site.reload(&(a + &b)).unwrap();
    for (changed, why) in [
        (site.export("a", "a.img", "filesize = 9999999"), "filesize"),
        (site.export("a", "missing.img", ""), "missing.img"),
        (site.export("a", "q.img", ""), "begins like a QCOW2"),
        (
            site.export("a", "q.img", "format = qcow2\nreadonly = true"),
            "q.img",
        ),
        (site.export("a", "a.img", "format = qcow2"), "read-only"),
        (
            site.export("a", "a.img", "format = qcow2\nreadonly = true"),
            "a.img",
        ),
        (
            site.export("a", "a.img", "readonly = true\nfilesize = 9000"),
            "filesize",
        ),
        (site.export("a", ".", ""), "regular file"),
    ] {
        // b is gone from the file as well, and stays all the same.
        let problems = site.reload(&changed).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let said = &problems[0].text;
        assert!(said.contains("[a]") && said.contains(why), "{said}");
        assert!(!said.contains("another process"), "{said}");
        assert_eq!(site.names(), ["a", "b"]);
        assert_eq!(site.exports.last_problems(), problems);
        let (a, _guard) = site.registry.connect("a", &Peer::default()).unwrap();
        assert_eq!((a.info().size, a.info().read_only), (8192, false));
    }
    // The disk is still locked against others as it was.
    assert!(locked(&site.path("a.img"), LockKind::Reader));
}

fn locked(path: &str, kind: LockKind) -> bool {
    let file = open_path(Path::new(path), Create::OpenRead).unwrap();
    LockedFile::lock(file, kind).is_err()
}

#[test]
fn what_still_drains_is_refused_alone_and_the_rest_applies() {
    let site = Site::new();
    let a = site.export("a", "a.img", "");
    site.reload(&a).unwrap();
    let client = site.registry.connect("a", &Peer::default()).unwrap();
    site.reload("").unwrap();
    assert!(site.registry.list()[0].draining);

    let report = site
        .reload(&(a.clone() + &site.export("b", "b.img", "")))
        .unwrap();
    assert_eq!(report.added, ["b"]);
    assert_eq!(report.refused.len(), 1);
    let (name, why) = &report.refused[0];
    assert!(name == "a" && why.contains("still draining"), "{why}");
    assert_eq!(site.names(), ["b"]);
    drop(client);
    let report = site.reload(&(a + &site.export("b", "b.img", ""))).unwrap();
    assert_eq!((report.added, report.unchanged), (vec!["a".to_owned()], 1));
}

#[test]
fn a_disk_that_clients_of_a_removed_export_hold_may_go_on_under_another_name() {
    let site = Site::new();
    site.reload(&site.export("a", "a.img", "readonly = true"))
        .unwrap();
    let client = site.registry.connect("a", &Peer::default()).unwrap();

    // In the same way of opening it goes on at once; for writing it has to wait.
    let renamed = site.export("n", "a.img", "readonly = true");
    let report = site.reload(&renamed).unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["n".into()], vec!["a".into()])
    );
    let writes = site.export("w", "a.img", "") + &site.export("b", "b.img", "");
    let report = site.reload(&writes).unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["b".into()], vec!["n".into()])
    );
    let why = &report.refused[0].1;
    assert!(why.contains("a.img") && why.contains("reload"), "{why}");
    assert!(!why.contains("another process"), "{why}");
    drop(client);
    assert_eq!(site.reload(&writes).unwrap().added, ["w"]);
    assert!(locked(&site.path("a.img"), LockKind::Reader));
}

#[test]
fn two_exports_of_one_disk_change_alone_and_together() {
    let site = Site::new();
    let two = |a: &str, b: &str| site.export("a", "a.img", a) + &site.export("b", "a.img", b);
    let (ro, rw) = ("readonly = true", "");
    site.reload(&two(ro, ro)).unwrap();
    let report = site
        .reload(&two(ro, "readonly = true\ndescription = it"))
        .unwrap();
    assert_eq!(
        (report.changed, report.unchanged),
        (vec!["b".to_owned()], 1)
    );

    // Both begin to write; one stops; the other begins again, though a did not change.
    let report = site.reload(&two(rw, rw)).unwrap();
    assert_eq!(report.changed, ["a", "b"], "{report:?}");
    let report = site.reload(&two(ro, rw)).unwrap();
    assert_eq!(
        (report.changed, report.unchanged),
        (vec!["a".to_owned()], 1)
    );
    let report = site.reload(&two(ro, ro)).unwrap();
    assert_eq!(
        (report.changed, report.refused),
        (vec!["b".to_owned()], vec![])
    );
    assert!(
        !locked(&site.path("a.img"), LockKind::Reader),
        "nobody writes"
    );
    let report = site.reload(&two(ro, rw)).unwrap();
    assert_eq!(
        (report.changed, report.unchanged),
        (vec!["b".to_owned()], 1)
    );
    assert!(locked(&site.path("a.img"), LockKind::Reader));
    site.reload(&two(ro, ro)).unwrap();

    // A client of a keeps the disk read-only: b is refused alone, and still there.
    let client = site.registry.connect("a", &Peer::default()).unwrap();
    let report = site.reload(&two(ro, rw)).unwrap();
    assert_eq!(report.changed, [""; 0]);
    assert_eq!(report.refused.len(), 1, "{report:?}");
    assert_eq!(report.refused[0].0, "b");
    assert!(site.registry.get("b").unwrap().info().read_only);
    assert_eq!(site.names(), ["a", "b"]);
    drop(client);
    assert_eq!(site.reload(&two(ro, rw)).unwrap().changed, ["b"]);
}

#[test]
fn renames_swaps_and_replaced_disks_come_in_one_reload() {
    let site = Site::new();
    let a = site.export("a", "a.img", "");
    site.reload(&a).unwrap();
    // The same disk under another name, in another mode.
    let report = site
        .reload(&site.export("r", "a.img", "readonly = true"))
        .unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["r".into()], vec!["a".into()])
    );
    assert!(
        !locked(&site.path("a.img"), LockKind::Reader),
        "nobody writes"
    );
    let report = site.reload(&a).unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["a".into()], vec!["r".into()])
    );
    // One file goes, another comes.
    let report = site.reload(&site.export("b", "b.img", "")).unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["b".into()], vec!["a".into()])
    );
    assert!(
        !locked(&site.path("a.img"), LockKind::Exclusive),
        "a.img is left alone"
    );
    // Two change places.
    let both = |a: &str, b: &str| site.export("a", a, "") + &site.export("b", b, "");
    fs::write(site.path("b.img"), vec![8; 4096]).unwrap();
    site.reload(&both("a.img", "b.img")).unwrap();
    let report = site.reload(&both("b.img", "a.img")).unwrap();
    assert_eq!(report.changed, ["a", "b"], "{report:?}");
    let size = |name: &str| site.registry.get(name).unwrap().info().size;
    assert_eq!((size("a"), size("b")), (4096, 8192));
    // Another file under the old path is another disk, and a link to it the same one.
    std::os::unix::fs::symlink(site.path("a.img"), site.path("link")).unwrap();
    let report = site
        .reload(&(both("b.img", "a.img") + &site.export("l", "link", "")))
        .unwrap();
    assert_eq!(report.added, ["l"]);
    fs::write(site.path("new"), vec![1; 512]).unwrap();
    fs::rename(site.path("new"), site.path("b.img")).unwrap();
    let changed = site.export("a", "b.img", "trim = true") + &site.export("b", "a.img", "");
    assert_eq!(site.reload(&changed).unwrap().changed, ["a"]);
    assert_eq!(size("a"), 512);
}

#[test]
fn a_lock_of_others_refuses_and_leaves_what_is_served() {
    let site = Site::new();
    let ro = site.export("a", "a.img", "readonly = true");
    site.reload(&ro).unwrap();
    let other = open_path(Path::new(&site.path("a.img")), Create::OpenRead).unwrap();
    let other = LockedFile::lock(other, LockKind::Reader).unwrap();
    let report = site.reload(&site.export("a", "a.img", "")).unwrap();
    assert!(
        report.refused[0].1.contains("another process"),
        "{report:?}"
    );
    assert!(site.registry.get("a").unwrap().info().read_only);
    assert_eq!(site.names(), ["a"]);
    drop(other);
    assert_eq!(
        site.reload(&site.export("a", "a.img", "")).unwrap().changed,
        ["a"]
    );
    // A new export of a disk that others hold is a mistake in the file.
    let other = open_path(Path::new(&site.path("b.img")), Create::OpenWrite).unwrap();
    let _other = LockedFile::lock(other, LockKind::Writer).unwrap();
    let problems = site.reload(&site.export("b", "b.img", "")).unwrap_err();
    assert!(problems[0].text.contains("another process"), "{problems:?}");
    assert_eq!(site.names(), ["a"]);
}

/// A QCOW2 image of an empty disk of `size` bytes.
fn image(path: &str, size: u64) {
    let mut writer = Writer::create(CreateOptions {
        virtual_size: size,
        cluster: ClusterSize::DEFAULT,
        backing: None,
    })
    .unwrap();
    let seal = writer.seal().unwrap();
    let file = open_path(Path::new(path), Create::New).unwrap();
    for (at, bytes) in seal.metadata() {
        file.write_at_blocking(at.get(), &bytes).unwrap();
    }
    file.write_at_blocking(0, &seal.header()).unwrap();
}

#[test]
fn an_image_and_its_bytes_follow_each_other_under_one_name() {
    let site = Site::new();
    image(&site.path("q.img"), 1 << 20);
    let bytes = site.export("q", "q.img", "format = raw");
    let disk = site.export("q", "q.img", "format = qcow2\nreadonly = true");
    let size = || site.registry.get("q").unwrap().info().size;
    site.reload(&bytes).unwrap();
    let file = size();
    for _ in 0..2 {
        assert_eq!(site.reload(&disk).unwrap().changed, ["q"]);
        assert_eq!(size(), 1 << 20);
        assert_eq!(site.reload(&bytes).unwrap().changed, ["q"]);
        assert_eq!(size(), file);
    }
    // A client of the bytes that writes keeps the image from being served, and it alone.
    let client = site.registry.connect("q", &Peer::default()).unwrap();
    let other = site.export("i", "q.img", "format = qcow2\nreadonly = true");
    let report = site
        .reload(&(other.clone() + &site.export("b", "b.img", "")))
        .unwrap();
    assert_eq!(
        (report.added, report.removed),
        (vec!["b".into()], vec!["q".into()])
    );
    assert_eq!(report.refused[0].0, "i");
    drop(client);
    assert_eq!(site.reload(&other).unwrap().added, ["i"]);
}

#[test]
fn a_filesize_of_zero_is_the_files_own() {
    let site = Site::new();
    site.reload(&site.export("a", "a.img", "filesize = 0"))
        .unwrap();
    assert_eq!(site.registry.get("a").unwrap().info().size, 8192);
    site.reload(&site.export("a", "a.img", "filesize = 512"))
        .unwrap();
    assert_eq!(site.registry.get("a").unwrap().info().size, 512);
}
