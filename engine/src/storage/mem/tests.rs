use super::*;
use crate::io::{Io, IoConfig};
use crate::pool::IoBuf;
use crate::storage::{EntryKind, Extent, WriteRun};

fn new_file(dir: &MemDirectory, path: &str) -> Arc<dyn File> {
    dir.open(path, Create::New).unwrap()
}

fn bytes(file: &dyn File, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xee; len];
    file.read_at_blocking(at, &mut out).unwrap();
    out
}

#[test]
fn what_is_written_reads_back_and_the_rest_is_zero() {
    let dir = MemDirectory::new();
    let file = new_file(&dir, "a");
    file.write_at_blocking(4090, b"0123456789").unwrap();
    assert_eq!(file.len().unwrap(), 4100);
    assert_eq!(bytes(&*file, 4088, 14), b"\x00\x000123456789\x00\x00");
    file.set_len(4095).unwrap();
    file.set_len(5000).unwrap();
    assert_eq!(bytes(&*file, 4090, 10), b"01234\0\0\0\0\0");
    assert!(file.punch(4091, 2).unwrap());
    assert_eq!(bytes(&*file, 4090, 5), b"0\0\x003\x34");
}

#[test]
fn punched_and_unwritten_chunks_are_holes() {
    let dir = MemDirectory::new();
    let file = new_file(&dir, "a");
    assert!(file.allocate(0, 65536).unwrap());
    file.write_at_blocking(8192, &[1; 12288]).unwrap();
    assert!(file.punch(12000, 5000).unwrap());
    let hole = |at, len, hole| Extent { at, len, hole };
    assert_eq!(
        file.extents(100, 40000).unwrap(),
        [
            hole(100, 8092, true),
            hole(8192, 4096, false),
            hole(12288, 4096, true),
            hole(16384, 4096, false),
            hole(20480, 19620, true)
        ]
    );
    assert_eq!(bytes(&*file, 11999, 2), [1, 0]);
    assert_eq!(bytes(&*file, 16999, 2), [0, 1]);
}

#[test]
fn names_behave_as_in_a_file_system() {
    let dir = MemDirectory::new();
    assert!(dir.open("x/y", Create::New).is_err());
    dir.create_dirs("x/y").unwrap();
    dir.create_dirs("x/y").unwrap();
    let file = new_file(&dir, "x/y/a.partial");
    file.write_at_blocking(0, b"abc").unwrap();
    new_file(&dir, "x/y/b");
    let taken = dir.rename("x/y/a.partial", "x/y/b").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    dir.rename("x/y/a.partial", "x/a").unwrap();
    assert_eq!(dir.read_small("x/a", 3).unwrap(), b"abc");
    assert_eq!(
        dir.read_small("x/a", 2).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    let names: Vec<_> = dir
        .list("x")
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.kind))
        .collect();
    assert_eq!(
        names,
        [
            ("a".into(), EntryKind::File),
            ("y".into(), EntryKind::Directory)
        ]
    );
    assert_eq!(
        dir.remove_dir("x/y").unwrap_err().kind(),
        io::ErrorKind::DirectoryNotEmpty
    );
    dir.rename("x/y", "x/z").unwrap();
    dir.remove_file("x/z/b").unwrap();
    dir.remove_dir("x/z").unwrap();
    assert_eq!(
        dir.open("x/z/b", Create::OpenRead).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    for bad in ["/x", "../x", "x/../y"] {
        assert_eq!(
            dir.open(bad, Create::OpenRead).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
    assert_eq!(
        bytes(&*file, 0, 3),
        b"abc",
        "an open file outlives its name"
    );
}

#[test]
fn a_replay_of_the_log_is_the_same_tree_and_a_part_of_it_an_earlier_one() {
    let dir = MemDirectory::new();
    dir.create_dirs("d").unwrap();
    dir.write_small("d/a.tmp", b"one").unwrap();
    dir.rename("d/a.tmp", "d/a").unwrap();
    dir.sync_dir("d").unwrap();
    let log = dir.log();
    assert!(matches!(
        &log[..],
        [
            Op::CreateDir { .. },
            Op::SyncDir { .. },
            Op::Create { .. },
            Op::Write { .. },
            Op::Sync { .. },
            Op::Rename { .. },
            Op::SyncDir { .. }
        ]
    ));
    let same = MemDirectory::replay(&log);
    assert_eq!(same.read_small("d/a", 9).unwrap(), b"one");
    let without_create =
        MemDirectory::replay(log.iter().filter(|op| !matches!(op, Op::Create { .. })));
    assert!(without_create.list("d").unwrap().is_empty());
    let before_rename = MemDirectory::replay(log.iter().take(5));
    assert_eq!(before_rename.list("d").unwrap()[0].name, "a.tmp");
}

#[test]
fn planned_faults_come_when_planned() {
    let dir = MemDirectory::new();
    let file = new_file(&dir, "img.partial");
    dir.fail(Fault {
        after: 1,
        torn: Some(2),
        ..Fault::next(OpKind::Write)
    });
    file.write_at_blocking(0, b"abcd").unwrap();
    let failed = file.write_at_blocking(0, b"wxyz").unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    assert_eq!(bytes(&*file, 0, 4), b"wxcd");
    file.write_at_blocking(0, b"wxyz").unwrap();
    let elsewhere = Some("json".to_owned());
    dir.fail(Fault {
        path_ends: elsewhere,
        forever: true,
        ..Fault::next(OpKind::Sync)
    });
    file.sync_blocking().unwrap();
    let other = new_file(&dir, "a.json");
    assert!(other.sync_blocking().is_err());
    assert!(other.sync_blocking().is_err());
    dir.set_space_left(4096);
    file.write_at_blocking(4096, b"x").unwrap();
    assert_eq!(
        file.write_at_blocking(8192, b"x").unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    file.write_at_blocking(0, b"in place").unwrap();
    assert!(file.allocate(0, 1 << 20).is_err());
    dir.heal();
    dir.set_unsupported(OpKind::Allocate);
    assert!(!file.allocate(0, 1 << 20).unwrap());
    other.sync_blocking().unwrap();
}

#[test]
fn locks_exclude_as_qemu_does() {
    let dir = MemDirectory::new();
    let one = new_file(&dir, "a");
    let two = dir.open("a", Create::OpenRead).unwrap();
    one.lock(LockKind::Reader).unwrap();
    two.lock(LockKind::Reader).unwrap();
    assert_eq!(
        one.lock(LockKind::Writer).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    drop(two);
    one.lock(LockKind::Exclusive).unwrap();
    let two = dir.open("a", Create::OpenRead).unwrap();
    assert!(two.lock(LockKind::Reader).is_err());
    one.unlock().unwrap();
    two.lock(LockKind::Reader).unwrap();
    assert!(two.write_at_blocking(0, b"x").is_err(), "opened to read");
}

#[tokio::test]
async fn held_operations_wait_and_change_nothing_until_released() {
    let dir = MemDirectory::new();
    let file = new_file(&dir, "a");
    let io = Io::new(IoConfig::small()).unwrap();
    dir.hold(OpKind::Write);
    let runs = vec![
        WriteRun { at: 10, part: 1..3 },
        WriteRun { at: 0, part: 0..1 },
    ];
    let mut write = file.write_runs(&io, IoBuf::copy_of(b"abc"), runs);
    assert!(futures_util::poll!(write.as_mut()).is_pending());
    assert_eq!(file.len().unwrap(), 0);
    dir.release();
    let (_, result) = write.await;
    result.unwrap();
    let (buf, result) = file.read_at(&io, 0, IoBuf::heap(13)).await;
    result.unwrap();
    assert_eq!(buf.as_ref(), b"a\0\0\0\0\0\0\0\0\0bc\0");
    file.sync(&io).await.unwrap();
    assert!(matches!(dir.log().last(), Some(Op::Sync { .. })));
}
