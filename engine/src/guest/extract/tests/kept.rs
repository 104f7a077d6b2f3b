//! What an extracted file keeps: content, facts, attributes; and what kinds of files are made.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::rig::{Guest, bytes, dir, found, run};
use crate::guest::extract::{NoteKind, Options};
use crate::guest::testing::Item;
use crate::guest::{FileType, Stream, Time, Xattr};

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
        Item::File(content.clone()),
        bytes(b"hello"),
        Item::Link(b"../../etc/shadow".to_vec()),
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
fn what_a_file_has_beside_its_content_is_kept_or_named() {
    let mut guest = Guest::new(vec![
        dir(&[(b"odd", 1), (b"streams", 2), (b"link", 3)]),
        bytes(b"whole"),
        bytes(b"whole"),
        Item::Link(b"odd".to_vec()),
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
