use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::guest::testing::{Item as Made, Tree};
use crate::guest::{Cursor, Facts, Page, Stat, State, Stream, Time, Xattr};

/// A tree with facts, holes and attributes of its own.
#[derive(Debug)]
struct Guest {
    tree: Tree,
    facts: Facts,
    stats: HashMap<u64, Stat>,
    data: HashMap<u64, Vec<Range<u64>>>,
    xattrs: HashMap<u64, Vec<Xattr>>,
    streams: HashMap<u64, Vec<Stream>>,
    /// Nodes whose attributes and streams cannot be read.
    odd: Vec<u64>,
    /// Files whose content cannot be read beyond this.
    broken: HashMap<u64, u64>,
}

impl Guest {
    fn new(items: Vec<Made>) -> Self {
        let tree = Tree::new(items);
        Self {
            facts: tree.facts().clone(),
            tree,
            stats: HashMap::new(),
            data: HashMap::new(),
            xattrs: HashMap::new(),
            streams: HashMap::new(),
            odd: Vec::new(),
            broken: HashMap::new(),
        }
    }

    /// Changes the facts of a node.
    fn with(mut self, node: u64, change: impl FnOnce(&mut Stat)) -> Self {
        let mut stat = self.stat(NodeId(node)).unwrap();
        change(&mut stat);
        self.stats.insert(node, stat);
        self
    }
}

impl FileSystem for Guest {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> NodeId {
        NodeId(0)
    }

    fn list(&self, dir: NodeId, from: Cursor, most: usize) -> crate::guest::Result<Page> {
        self.tree.list(dir, from, most)
    }

    fn stat(&self, node: NodeId) -> crate::guest::Result<Stat> {
        let known = self.stats.get(&node.0).cloned();
        known.map_or_else(|| self.tree.stat(node), Ok)
    }

    fn read(
        &self,
        node: NodeId,
        stream: Option<&[u8]>,
        at: u64,
        buf: &mut [u8],
    ) -> crate::guest::Result<usize> {
        match self.broken.get(&node.0) {
            Some(end) if at >= *end => Err(Fault::damaged("the extent lies outside")),
            Some(end) => {
                let len = buf.len().min(usize::try_from(end - at).unwrap());
                self.tree.read(node, stream, at, &mut buf[..len])
            }
            None => self.tree.read(node, stream, at, buf),
        }
    }

    fn data(
        &self,
        node: NodeId,
        stream: Option<&[u8]>,
        from: u64,
    ) -> crate::guest::Result<Option<Range<u64>>> {
        match self.data.get(&node.0) {
            Some(ranges) => Ok(ranges.iter().find(|r| r.end > from).cloned()),
            None => self.tree.data(node, stream, from),
        }
    }

    fn link(&self, node: NodeId) -> crate::guest::Result<Vec<u8>> {
        self.tree.link(node)
    }

    fn xattrs(&self, node: NodeId) -> crate::guest::Result<Vec<Xattr>> {
        if self.odd.contains(&node.0) {
            return Err(Fault::damaged("the attributes lie outside"));
        }
        Ok(self.xattrs.get(&node.0).cloned().unwrap_or_default())
    }

    fn streams(&self, node: NodeId) -> crate::guest::Result<Vec<Stream>> {
        if self.odd.contains(&node.0) {
            return Err(Fault::damaged("the streams lie outside"));
        }
        Ok(self.streams.get(&node.0).cloned().unwrap_or_default())
    }
}

fn dir(names: &[(&[u8], u64)]) -> Made {
    Made::Dir(names.iter().map(|(n, i)| (n.to_vec(), *i)).collect())
}

fn bytes(content: &[u8]) -> Made {
    Made::File(content.to_vec())
}

fn run(guest: &Guest, what: &[&str], into: &Path, options: &Options) -> Report {
    let patterns: Vec<_> = what.iter().map(|p| p.as_bytes().to_vec()).collect();
    let mut watch = |_: Event<'_>| ControlFlow::Continue(());
    extract(guest, &patterns, into, options, &mut watch).unwrap()
}

/// Everything beneath a directory, in order.
fn found(at: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut left = vec![at.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            all.push(entry.path().strip_prefix(at).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            }
        }
    }
    all.sort();
    all
}

fn time(seconds: i64, nanos: u32) -> Option<Time> {
    Some(Time { seconds, nanos })
}

#[test]
fn files_keep_content_holes_times_modes_owners_and_attributes() {
    let mut content = vec![0u8; 8 << 20];
    content[3 << 20..(3 << 20) + 5000].fill(7);
    let guest = Guest::new(vec![
        dir(&[(b"var", 1), (b"other", 3)]),
        dir(&[
            (b"sparse", 2),
            (b"\xff\n odd", 3),
            (b"link", 4),
            (b"twin", 3),
            (b"empty", 5),
        ]),
        Made::File(content.clone()),
        bytes(b"hello"),
        Made::Link(b"../../etc/shadow".to_vec()),
        dir(&[]),
    ]);
    let mut guest = guest
        .with(1, |s| {
            s.mode = Some(0o555);
            s.modified = time(1_000_000_000, 5);
        })
        .with(2, |s| {
            s.mode = Some(0o4711);
            (s.uid, s.gid) = (Some(1234), Some(5678));
            s.modified = time(-100, 999_999_999);
            s.accessed = time(4_000_000_000, 1);
        })
        .with(3, |s| s.links = Some(2))
        .with(4, |s| {
            (s.uid, s.gid) = (Some(77), Some(88));
            s.modified = time(5, 6);
        })
        .with(5, |s| s.mode = Some(0o1777));
    guest
        .data
        .insert(2, std::iter::once((3 << 20)..(3 << 20) + 8192).collect());
    guest.xattrs.insert(
        2,
        vec![Xattr {
            name: b"user.note".to_vec(),
            value: b"\0kept".to_vec(),
        }],
    );

    let to = tempfile::tempdir().unwrap();
    let options = Options {
        owners: true,
        ..Options::default()
    };
    let report = run(&guest, &["/var"], to.path(), &options);
    assert_eq!(
        (report.failed, report.incomplete),
        (0, 0),
        "{:?}",
        report.notes
    );
    assert_eq!(
        (report.files, report.hard_links, report.symlinks),
        (2, 1, 1)
    );
    assert_eq!((report.directories, report.bytes), (2, 8192 + 5));

    let sparse = to.path().join("var/sparse");
    assert_eq!(fs::read(&sparse).unwrap(), content);
    let meta = fs::metadata(&sparse).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o4711, 1234, 5678)
    );
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-100, 999_999_999));
    assert_eq!((meta.atime(), meta.atime_nsec()), (4_000_000_000, 1));
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(&sparse, "user.note", &mut value).unwrap();
    assert_eq!(&value[..len], b"\0kept");

    let above = fs::metadata(to.path().join("var")).unwrap();
    assert_eq!(
        (above.mode() & 0o7777, above.mtime(), above.mtime_nsec()),
        (0o555, 1_000_000_000, 5)
    );
    let link = to.path().join("var/link");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../etc/shadow"));
    let link = fs::symlink_metadata(&link).unwrap();
    assert_eq!((link.uid(), link.gid(), link.mtime()), (77, 88, 5));
    let odd = to
        .path()
        .join("var")
        .join(std::ffi::OsStr::from_bytes(b"\xff\n odd"));
    let twin = to.path().join("var/twin");
    assert_eq!(
        fs::metadata(odd).unwrap().ino(),
        fs::metadata(twin).unwrap().ino()
    );
    assert_eq!(
        fs::metadata(to.path().join("var/empty")).unwrap().mode() & 0o7777,
        0o1777
    );

    // Without owners: no set-id bit is the caller's, and none of his files belongs to another.
    let to = tempfile::tempdir().unwrap();
    run(&guest, &["var/sparse"], to.path(), &Options::default());
    let meta = fs::metadata(to.path().join("var/sparse")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o711);
    assert_ne!(meta.uid(), 1234);
}

#[test]
fn nothing_is_ever_made_outside_of_the_destination() {
    let outside = tempfile::tempdir().unwrap();
    let away = outside.path().as_os_str().as_bytes().to_vec();
    fs::write(outside.path().join("file"), "host").unwrap();
    let guest = Guest::new(vec![
        dir(&[
            (b"..", 3),
            (b"../escape", 3),
            (b"/tmp/escape", 3),
            (b"nul\0", 3),
            // A link, then a directory of the same name.
            (b"twice", 1),
            (b"twice", 2),
            (b"planted", 2),
            (b"good", 3),
        ]),
        Made::Link(away.clone()),
        dir(&[(b"file", 3), (b"new", 3)]),
        bytes(b"guest"),
    ]);
    for overwrite in [false, true] {
        let base = tempfile::tempdir().unwrap();
        let to = base.path().join("to");
        fs::create_dir(&to).unwrap();
        symlink(outside.path(), to.join("planted")).unwrap();
        let options = Options {
            overwrite,
            ..Options::default()
        };
        let report = run(&guest, &["/"], &to, &options);
        assert!(report.failed >= 5, "{report:?}");
        assert_eq!(found(outside.path()), [Path::new("file")]);
        assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"host");
        assert_eq!(found(base.path()).len(), 4, "{:?}", found(base.path()));
        assert_eq!(fs::read(to.join("good")).unwrap(), b"guest");
        // Named by the caller it is no other.
        let report = run(&guest, &["planted/new", "../x"], &to, &options);
        assert_eq!((report.failed, report.made()), (2, 0), "{report:?}");
        assert_eq!(found(outside.path()), [Path::new("file")]);
    }
}

#[test]
fn nothing_is_written_over_unasked_and_a_replaced_file_is_a_new_one() {
    let guest = Guest::new(vec![
        dir(&[
            (b"file", 1),
            (b"link", 2),
            (b"dir", 1),
            (b"linked", 1),
            (b"fresh", 1),
        ]),
        bytes(b"guest"),
        Made::Link(b"target".to_vec()),
    ]);
    let base = tempfile::tempdir().unwrap();
    let to = base.path().join("to");
    let other = base.path().join("other");
    fs::write(&other, "host").unwrap();
    fs::create_dir_all(to.join("dir")).unwrap();
    fs::hard_link(&other, to.join("file")).unwrap();
    symlink(&other, to.join("linked")).unwrap();
    fs::write(to.join("link"), "was a file").unwrap();

    let report = run(&guest, &["*"], &to, &Options::default());
    assert_eq!((report.failed, report.files), (4, 1), "{report:?}");
    assert!(report.notes[0].what.contains("there already"));
    assert_eq!(fs::read(to.join("file")).unwrap(), b"host");

    let options = Options {
        overwrite: true,
        ..Options::default()
    };
    let report = run(&guest, &["*"], &to, &options);
    assert_eq!(
        (report.failed, report.files, report.symlinks),
        (1, 3, 1),
        "{report:?}"
    );
    assert_eq!(report.notes[0].path, "/dir");
    assert_eq!(fs::read(to.join("file")).unwrap(), b"guest");
    assert_eq!(fs::read(to.join("linked")).unwrap(), b"guest");
    assert!(fs::symlink_metadata(to.join("linked")).unwrap().is_file());
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("target"));
    assert_eq!(fs::read(&other).unwrap(), b"host");
    assert_eq!(found(&to).len(), 5, "{:?}", found(&to));
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_is_not_left_behind() {
    let mut guest = Guest::new(vec![
        dir(&[
            (b"bad", 1),
            (b"good", 2),
            (b"turns", 3),
            (b"short", 4),
            (b"gone", 9),
        ]),
        bytes(&[1; 3 << 20]),
        bytes(b"good"),
        bytes(&[1; 10]),
        bytes(&[1; 10]),
    ]);
    guest.broken.insert(1, 2 << 20);
    guest.data.insert(3, vec![5..5, 0..6]);
    guest.data.insert(4, std::iter::once(0..20).collect());
    let guest = guest.with(4, |s| s.size = 20);
    let to = tempfile::tempdir().unwrap();
    let report = run(&guest, &["/"], to.path(), &Options::default());
    assert_eq!((report.failed, report.files), (4, 1), "{report:?}");
    assert_eq!(found(to.path()), [Path::new("good")]);
    assert!(report.notes[0].what.contains("outside"));
}

#[test]
fn what_a_file_has_beside_its_content_is_kept_or_named() {
    let mut guest = Guest::new(vec![
        dir(&[(b"odd", 1), (b"streams", 2), (b"link", 3)]),
        bytes(b"whole"),
        bytes(b"whole"),
        Made::Link(b"odd".to_vec()),
    ]);
    guest.odd = vec![1];
    let stream = Stream {
        name: b"Zone".to_vec(),
        size: 26,
    };
    guest.streams.insert(2, vec![stream]);
    let label = Xattr {
        name: b"trusted.note".to_vec(),
        value: b"kept".to_vec(),
    };
    guest.xattrs.insert(3, vec![label]);
    let to = tempfile::tempdir().unwrap();
    let options = Options {
        owners: true,
        ..Options::default()
    };
    let report = run(&guest, &["/"], to.path(), &options);
    assert_eq!(
        (report.failed, report.files, report.incomplete),
        (0, 2, 3),
        "{report:?}"
    );
    assert_eq!(fs::read(to.path().join("odd")).unwrap(), b"whole");
    assert!(report.notes[2].what.contains("Zone"), "{report:?}");
    let mut value = [0; 8];
    let len = rustix::fs::lgetxattr(to.path().join("link"), "trusted.note", &mut value);
    assert_eq!(&value[..len.unwrap()], b"kept");
}

#[test]
fn special_files_are_named_and_made_only_on_demand() {
    let guest = Guest::new(vec![
        dir(&[(b"null", 1), (b"pipe", 2), (b"sock", 3), (b"what", 4)]),
        bytes(b""),
        bytes(b""),
        bytes(b""),
        bytes(b""),
    ]);
    let guest = guest
        .with(1, |s| {
            s.file_type = FileType::CharDevice;
            s.device = Some((1, 3));
            s.mode = Some(0o666);
        })
        .with(2, |s| s.file_type = FileType::Fifo)
        .with(3, |s| s.file_type = FileType::Socket)
        .with(4, |s| s.file_type = FileType::Other);
    let to = tempfile::tempdir().unwrap();
    let report = run(&guest, &["/"], to.path(), &Options::default());
    assert_eq!(
        (report.special_skipped, report.failed, report.made()),
        (3, 1, 0)
    );
    assert_eq!(
        report
            .notes
            .iter()
            .filter(|n| n.kind == NoteKind::Skipped)
            .count(),
        3
    );
    assert!(found(to.path()).is_empty());

    let options = Options {
        special: true,
        owners: true,
        ..Options::default()
    };
    let report = run(&guest, &["/"], to.path(), &options);
    assert_eq!((report.special, report.failed), (3, 1), "{report:?}");
    let null = fs::metadata(to.path().join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.mode() & 0o7777, 0o666);
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert!(
        fs::metadata(to.path().join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn what_is_named_twice_comes_once_and_what_is_not_there_is_named() {
    let guest = Guest::new(vec![
        dir(&[(b"a", 1)]),
        dir(&[(b"b", 2), (b"c", 2)]),
        bytes(b"x"),
    ]);
    let to = tempfile::tempdir().unwrap();
    let into = to.path().join("new");
    let report = run(
        &guest,
        &["a/b", "/a", "a/*", "none"],
        &into,
        &Options::default(),
    );
    assert_eq!(
        (report.files, report.directories, report.failed),
        (2, 1, 1),
        "{report:?}"
    );
    assert!(report.notes[0].what.contains("none"));
    assert_eq!(found(&into).len(), 3);
}

#[test]
fn a_stale_view_carries_its_warning_and_the_caller_may_end_it() {
    let mut guest = Guest::new(vec![dir(&[(b"a", 1), (b"b", 1)]), bytes(&[7; 3 << 20])]);
    guest.facts.state = State::Unreplayed {
        reason: "the journal is old".to_owned(),
    };
    let to = tempfile::tempdir().unwrap();
    let report = run(&guest, &["a"], to.path(), &Options::default());
    assert_eq!(report.warning.as_deref(), Some("the journal is old"));

    let to = tempfile::tempdir().unwrap();
    let mut heard = 0;
    let ended = extract(
        &guest,
        &[b"/".to_vec()],
        to.path(),
        &Options::default(),
        &mut |_| {
            heard += 1;
            if heard > 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert_eq!(ended.unwrap_err().kind, ErrorKind::WrongState);
    assert!(found(to.path()).len() <= 1);
}
