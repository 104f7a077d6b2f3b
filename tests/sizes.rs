//! Disks whose size is no multiple of a sector: exact in everything of ours, whole for QEMU.

use std::path::Path;

use sendense_tests::command::{run_ours, text};
use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random};
use sendense_tests::{backup, oracle};

const FIRST: u64 = (10 << 20) + 123;
const SECOND: u64 = (17 << 20) + 457;

#[test]
fn a_disk_of_odd_size_keeps_every_byte_and_its_exact_size() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), FIRST, 40, 31);
    // The last bytes, which no whole sector holds.
    disk.write(FIRST - 123, &[0xa7; 123]);
    let first = backup::full(&daemon, "odd", &disk, "a");
    let kept = disk.keep(&dir.path().join("kept"));

    // Growth that leaves the old end's cluster to the parent, and new last bytes.
    disk.grow(SECOND);
    let changes = [
        Change {
            at: 3 << 20,
            len: 70_001,
            act: Act::Write,
        },
        Change {
            at: (12 << 20) + 7,
            len: 1001,
            act: Act::Write,
        },
        Change {
            at: SECOND - 400,
            len: 400,
            act: Act::Write,
        },
    ];
    disk.apply(&changes, &mut Random::new(32));
    let second = backup::delta(&daemon, "odd", "incremental", &disk, ("a", "b"), &changes);

    for (id, raw, size) in [(&first, &kept, FIRST), (&second, &disk.path, SECOND)] {
        let image = &daemon.images(id)[0];
        oracle::check_clean(image);
        oracle::identical(image, raw);
        assert_eq!(
            oracle::info(image)["virtual-size"],
            size.next_multiple_of(512)
        );
        let restored = dir.path().join("restored");
        daemon.restore(id, 0, &restored);
        assert_eq!(std::fs::metadata(&restored).unwrap().len(), size);
        oracle::same_bytes(&restored, raw);
        std::fs::remove_file(&restored).unwrap();
    }
}

#[test]
fn a_raw_file_of_odd_size_becomes_a_qcow2_of_whole_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), FIRST, 40, 33);
    disk.write(FIRST - 123, &[0xa7; 123]);
    let (image, back) = (dir.path().join("image"), dir.path().join("back"));
    let convert = |to: &str, from: &Path, file: &Path| {
        let args = ["convert", "-O", to, text(from), text(file)];
        run_ours("sendense-image", &args).ok()
    };
    let said = convert("qcow2", &disk.path, &image);
    assert!(said.stdout.contains("389 bytes"), "{}", said.stdout);
    oracle::check_clean(&image);
    oracle::identical(&image, &disk.path);
    convert("raw", &image, &back);
    let rounded = FIRST.next_multiple_of(512);
    assert_eq!(std::fs::metadata(&back).unwrap().len(), rounded);
    disk.grow(rounded);
    oracle::same_bytes(&back, &disk.path);
}
