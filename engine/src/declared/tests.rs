//! Reloads against a registry, with real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sendense_nbd::{Peer, Refused};

use super::*;
use crate::plane::ExportRegistry;

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
