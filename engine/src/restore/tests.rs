//! Restores into a directory in memory.

use std::sync::Arc;

use sendense_formats::ClusterSize;

use super::*;
use crate::chain::tests::file;
use crate::chain::{Chain, ChainOptions, LayerSource};
use crate::io::{Io, IoConfig};
use crate::storage::mem::{Fault, MemDirectory, Op, OpKind};

/// 200 KiB and a bit: data, a hole that is a cluster, data.
fn disk() -> Vec<u8> {
    let mut disk = vec![3; 200_100];
    disk[65536..131_072].fill(0);
    disk
}

fn to(directory: &MemDirectory, format: FileFormat, overwrite: bool) -> RestoreTarget {
    RestoreTarget::File {
        directory: Arc::new(directory.clone()),
        path: "disk".into(),
        format,
        overwrite,
    }
}

fn run(target: RestoreTarget, progress: &Progress) -> Result<Copied> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let io = Io::new(IoConfig::small()).unwrap();
            let layer = LayerSource::raw(file(&disk()), "source");
            let chain = Chain::open([layer], ChainOptions::default()).unwrap();
            restore(&io, &chain, target, progress).await
        })
}

fn names(directory: &MemDirectory) -> Vec<String> {
    directory
        .list("")
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect()
}

const QCOW2: FileFormat = FileFormat::Qcow2(ClusterSize::DEFAULT);

#[test]
fn a_file_gets_its_name_when_it_is_whole() {
    for format in [FileFormat::Raw, QCOW2] {
        let directory = MemDirectory::new();
        let progress = Progress::new();
        let copied = run(to(&directory, format, false), &progress).unwrap();
        assert_eq!((copied.zero, copied.written), (65536, 200_100 - 65536));
        assert_eq!(names(&directory), ["disk"]);
        let file = directory.open("disk", Create::OpenRead).unwrap();
        let layer = match format {
            FileFormat::Raw => LayerSource::raw(file, "disk"),
            FileFormat::Qcow2(_) => LayerSource::qcow2(file, "disk"),
        };
        let chain = Chain::open([layer], ChainOptions::default()).unwrap();
        let mut back = vec![1; disk().len()];
        chain.read_blocking(0, &mut back).unwrap();
        assert!(back == disk());
        let e = run(to(&directory, format, false), &progress).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Exists);
        run(to(&directory, format, true), &progress).unwrap();
        assert_eq!(names(&directory), ["disk"]);
    }
}

#[test]
fn what_failed_or_was_cancelled_leaves_nothing_and_spares_what_was_there() {
    for kind in [OpKind::Write, OpKind::Sync] {
        for format in [FileFormat::Raw, QCOW2] {
            let directory = MemDirectory::new();
            directory.write_small("disk", b"old").unwrap();
            directory.fail(Fault::next(kind));
            let e = run(to(&directory, format, true), &Progress::new()).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Io);
            assert_eq!(names(&directory), ["disk"]);
            assert_eq!(directory.read_small("disk", 9).unwrap(), b"old");
        }
    }
    let directory = MemDirectory::new();
    let progress = Progress::new();
    progress.cancel();
    run(to(&directory, FileFormat::Raw, false), &progress).unwrap_err();
    assert!(names(&directory).is_empty());
}

#[test]
fn a_file_that_others_have_open_is_not_replaced() {
    let directory = MemDirectory::new();
    directory.write_small("disk", b"old").unwrap();
    for kind in [LockKind::Reader, LockKind::Writer] {
        let other = directory.open("disk", Create::OpenRead).unwrap();
        other.lock(kind).unwrap();
        let e = run(to(&directory, QCOW2, true), &Progress::new()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Locked, "{e}");
        assert_eq!(names(&directory), ["disk"]);
        assert_eq!(directory.read_small("disk", 9).unwrap(), b"old");
        other.unlock().unwrap();
    }
    run(to(&directory, QCOW2, true), &Progress::new()).unwrap();
    // Neither name was without a file in between.
    let log = directory.log();
    assert!(log.iter().any(|op| matches!(op, Op::Replace { .. })));
    assert!(!log.iter().any(|op| matches!(op, Op::RemoveFile { .. })));
    // Nobody's lock is left.
    let file = directory.open("disk", Create::OpenRead).unwrap();
    file.lock(LockKind::Exclusive).unwrap();
}

#[test]
fn what_a_killed_run_left_does_not_block_the_next_one() {
    let directory = MemDirectory::new();
    directory.write_small("disk.partial", b"half").unwrap();
    let running = directory.open("disk.partial", Create::OpenRead).unwrap();
    running.lock(LockKind::Writer).unwrap();
    let e = run(to(&directory, QCOW2, false), &Progress::new()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Locked);
    assert!(e.to_string().contains("disk.partial"), "{e}");
    assert_eq!(directory.read_small("disk.partial", 9).unwrap(), b"half");
    running.unlock().unwrap();
    run(to(&directory, QCOW2, false), &Progress::new()).unwrap();
    assert_eq!(names(&directory), ["disk"]);
    // What is no file is not removed, and named.
    directory.create_dirs("disk.partial").unwrap();
    let e = run(to(&directory, QCOW2, true), &Progress::new()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Exists);
    assert!(e.to_string().contains("disk.partial"), "{e}");
}

#[test]
fn a_device_needs_room_and_keeps_what_lies_behind_the_disk() {
    let device = |len: usize| RestoreTarget::Device {
        file: file(&vec![9; len]),
        name: "device".into(),
    };
    let e = run(device(200_099), &Progress::new()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid);
    let target = device(200_200);
    run(target.clone(), &Progress::new()).unwrap();
    let RestoreTarget::Device { file, .. } = target else {
        panic!("a device");
    };
    let mut back = vec![0; 200_200];
    file.read_at_blocking(0, &mut back).unwrap();
    assert!(back[..200_100] == disk() && back[200_100..].iter().all(|b| *b == 9));
}

#[test]
fn a_name_that_somebody_else_took_meanwhile_is_neither_given_nor_removed() {
    let directory = MemDirectory::new();
    let share = || -> Arc<dyn Directory> { Arc::new(directory.clone()) };
    let ours = NewFile::create(share(), "disk".to_owned(), false).unwrap();
    directory.remove_file("disk.partial").unwrap();
    directory.write_small("disk.partial", b"theirs").unwrap();
    let e = ours.keep().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Exists);
    assert_eq!(names(&directory), ["disk.partial"]);
    assert_eq!(directory.read_small("disk.partial", 9).unwrap(), b"theirs");
}
