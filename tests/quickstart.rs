//! Show 12: the first command of the README proves itself.

use std::process::Command;

use sendense_tests::command::{ours, run_command};
use sendense_tests::disk::Disk;

#[test]
fn quickstart_makes_a_disk_backs_it_up_twice_restores_and_compares() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_command(
        Command::new(ours("sendensed"))
            .arg("quickstart")
            .env("TMPDIR", dir.path())
            .current_dir(dir.path()),
    )
    .ok();
    for word in ["full", "incremental", "identical", "sendense-ctl"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}

#[test]
fn quickstart_takes_a_disk_of_yours_and_never_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("mine.raw"), (64 << 20) + 512, 30, 1);
    let kept = disk.keep(&dir.path().join("kept"));
    run_command(
        Command::new(ours("sendensed"))
            .args(["quickstart", disk.path.to_str().unwrap()])
            .env("TMPDIR", dir.path())
            .current_dir(dir.path()),
    )
    .ok();
    sendense_tests::oracle::same_bytes(&disk.path, &kept);
}

#[test]
fn quickstart_says_where_a_given_file_is_an_image_and_not_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("mine.qcow2");
    run_command(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&image)
            .arg("64M"),
    )
    .ok();
    let ran = run_command(
        Command::new(ours("sendensed"))
            .args(["quickstart", image.to_str().unwrap()])
            .env("TMPDIR", dir.path())
            .current_dir(dir.path()),
    )
    .ok();
    assert!(ran.stdout.contains("warning: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("QCOW2"), "{}", ran.stdout);
}
