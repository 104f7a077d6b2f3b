use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn growing(path: &Path, overwrite: bool) -> Growing {
    Growing(Arc::new(Target::open(path, overwrite).unwrap()))
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_half_done_has_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let target = growing(&path, false);
    target.0.set_size(4096).unwrap();
    target.0.write(0, b"new").unwrap();
    assert!(!path.exists());
    // Somebody else was faster.
    std::fs::write(&path, b"old").unwrap();
    assert!(target.0.finish().is_err());
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert!(Target::open(&path, false).is_err());
    assert_eq!(entries(dir.path()), 1);

    let target = growing(&path, true);
    target.0.set_size(3).unwrap();
    target.0.write(0, b"new").unwrap();
    target.0.finish().unwrap();
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(entries(dir.path()), 1);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[test]
fn who_gives_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let target = growing(&path, false);
    target.0.set_size(1 << 20).unwrap();
    target.0.write(0, b"half").unwrap();
    assert_eq!(entries(dir.path()), 1);
    drop(target);
    assert_eq!(entries(dir.path()), 0);
}

#[test]
fn zeroes_inside_of_data_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let size = (8 << 20) + 513;
    let mut disk = vec![0; size];
    disk[5 << 20] = 1;
    disk[size - 1] = 2;
    let target = growing(&path, false);
    target.0.set_size(size as u64).unwrap();
    for (i, chunk) in disk.chunks(1 << 20).enumerate() {
        target.0.write((i as u64) << 20, chunk).unwrap();
    }
    target.0.zero(0, 1 << 20).unwrap();
    target.0.finish().unwrap();
    assert!(std::fs::read(&path).unwrap() == disk);
    let stored = std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(stored <= 256 << 10, "{stored} bytes are stored");
}

#[test]
fn only_files_and_block_devices_are_written() {
    let dir = tempfile::tempdir().unwrap();
    for odd in [dir.path(), Path::new("/dev/null")] {
        let e = Target::open(odd, true).unwrap_err();
        assert!(e.to_string().contains("neither a regular file"), "{e}");
    }
    assert_eq!(entries(dir.path()), 0);
    assert!(Target::open(&dir.path().join("no/such/dir"), false).is_err());
}
