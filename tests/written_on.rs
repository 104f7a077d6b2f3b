//! QEMU writes on in our images, and we leave alone what it has open.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sendense_tests::command::{run, run_ours, text};
use sendense_tests::disk::{Disk, Random, scattered_changes};
use sendense_tests::image::{maps_like_qemu, reads_as};
use sendense_tests::{backup, daemon::Daemon, mover, oracle};
use serde_json::json;

#[test]
fn qemu_writes_on_in_a_copy_of_our_chain_and_check_stays_clean() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 40 << 20, 50, 11);
    let started = daemon.start_backup(&json!({
        "vm_name": "v", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size() }],
    }));
    mover::nbdcopy(&disk, started["disks"][0]["nbd_uris"][0].as_str().unwrap()).ok();
    let id = started["backup_id"].as_str().unwrap();
    daemon.complete(id, &json!([{ "disk_id": 0 }]));

    let copy = dir.path().join("copy.qcow2");
    std::fs::copy(&daemon.images(id)[0], &copy).unwrap();
    let mut random = Random::new(5);
    let mut commands = Vec::new();
    for i in 0..30 {
        let (at, len) = (
            random.below(39 << 20) / 512 * 512,
            512 * (1 + random.below(300)),
        );
        disk.write(at, &vec![(i + 1) as u8; len as usize]);
        commands.push(format!("write -P {} {at} {len}", i + 1));
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    oracle::qemu_io(&["-f", "qcow2", text(&copy)], &commands).ok();
    oracle::check_clean(&copy);
    oracle::identical(&copy, &disk.path);
}

#[test]
fn qemu_writes_on_in_a_copy_of_a_whole_chain_and_its_parents_stay() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 40 << 20, 50, 13);
    let mut random = Random::new(14);
    let mut ids = vec![backup::full(&daemon, "v", &disk, "t0")];
    for (base, token) in [("t0", "t1"), ("t1", "t2")] {
        let changes = scattered_changes(disk.size(), 10, &mut random);
        disk.apply(&changes, &mut random);
        let sealed = backup::delta(&daemon, "v", "incremental", &disk, (base, token), &changes);
        ids.push(sealed);
    }
    // The chain as an operator copies it: the files, side by side.
    let copies = dir.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let copied: Vec<PathBuf> = ids
        .iter()
        .map(|id| {
            let image = &daemon.images(id)[0];
            let copy = copies.join(image.file_name().unwrap());
            std::fs::copy(image, &copy).unwrap();
            copy
        })
        .collect();
    let (top, parents) = copied.split_last().unwrap();
    let before: Vec<Vec<u8>> = parents.iter().map(|p| std::fs::read(p).unwrap()).collect();

    let mut commands = Vec::new();
    for i in 0..40u8 {
        let at = random.below(39 << 20) / 512 * 512;
        let len = 512 * (1 + random.below(300));
        let (command, byte) = match i % 4 {
            3 => (format!("write -z {at} {len}"), 0),
            _ => (format!("write -P {} {at} {len}", i + 1), i + 1),
        };
        disk.write(at, &vec![byte; len as usize]);
        commands.push(command);
    }
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    oracle::qemu_io(&["-f", "qcow2", text(top)], &commands).ok();
    oracle::check_clean(top);
    oracle::identical(top, &disk.path);
    for (parent, before) in parents.iter().zip(before) {
        assert!(std::fs::read(parent).unwrap() == before, "{parent:?}");
        oracle::check_clean(parent);
    }
    // What QEMU made of it is an image like any other to us.
    reads_as(top, &disk.path);
    maps_like_qemu(top);
}

#[test]
fn an_image_that_qemu_has_open_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 4 << 20, 30, 3);
    let image = dir.path().join("image.qcow2");
    let create = ["create", "-q", "-f", "qcow2", text(&image), "1M"];
    run("qemu-img", &create).ok();
    let before = std::fs::read(&image).unwrap();
    let overwrite = ["convert", "-O", "qcow2", "--overwrite"];
    let overwrite = [&overwrite[..], &[text(&disk.path), text(&image)]].concat();

    let mut qemu = Command::new("qemu-io")
        .args(["-f", "qcow2", text(&image)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It is there once nobody else may read the image.
    let begun = Instant::now();
    while run_ours("sendense-image", &["info", text(&image)]).code == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(50));
    }
    let ran = run_ours("sendense-image", &overwrite);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.stderr.contains("locked"), "{}", ran.stderr);
    assert_eq!(std::fs::read(&image).unwrap(), before);
    drop(qemu.stdin.take());
    qemu.wait().unwrap();

    // A killed run left its half behind: that does not block the next one.
    std::fs::write(dir.path().join("image.qcow2.partial"), b"half").unwrap();
    run_ours("sendense-image", &overwrite).ok();
    oracle::check_clean(&image);
    oracle::identical(&image, &disk.path);
    assert!(!dir.path().join("image.qcow2.partial").exists());
}
