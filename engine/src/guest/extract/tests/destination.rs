//! What may happen to the destination: nothing outside of it, nothing unasked, nothing half-made.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::rig::{Guest, bytes, dir, found, run};
use crate::ErrorKind;
use crate::guest::State;
use crate::guest::extract::{Options, extract};
use crate::guest::testing::Item;

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
        Item::Link(away.clone()),
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
        Item::Link(b"target".to_vec()),
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
