//! `sendense-image check`: its verdicts are QEMU's, and a repair leaves no image worse.

use sendense_tests::command::{run, run_ours, text};
use sendense_tests::disk::Disk;
use sendense_tests::image::{checks_like_qemu, source};
use sendense_tests::oracle;

#[test]
fn a_raw_file_has_no_checks_and_the_exit_code_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 1 << 20, 30, 3);
    let theirs = run("qemu-img", &["check", "-f", "raw", text(&disk.path)]);
    for format in [&[][..], &["-f", "raw"], &["--output", "json"]] {
        let args = [&["check"], format, &[text(&disk.path)]].concat();
        let ours = run_ours("sendense-image", &args);
        assert_eq!(ours.code, theirs.code, "{format:?}");
        assert_eq!((ours.code, &*ours.stdout), (63, ""), "{format:?}");
        assert!(ours.stderr.contains("raw file"), "{}", ours.stderr);
    }
}

#[test]
fn check_tells_corruption_from_leaks_and_repairs_leaks() {
    let dir = tempfile::tempdir().unwrap();
    let disk = source(dir.path());
    let leaky = dir.path().join("leaky.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&disk.path),
            text(&leaky),
        ],
    )
    .ok();
    let broken = dir.path().join("broken.qcow2");
    std::fs::copy(&leaky, &broken).unwrap();

    // A leak: the L2 entry of a data cluster is dropped, its refcount stays.
    let bytes = std::fs::read(&leaky).unwrap();
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let l1 = word(40) as usize;
    let l2 = (word(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let used = (0..8192)
        .find(|i| word(l2 + 8 * i) & (1 << 63) != 0)
        .unwrap();
    Disk::open(&leaky).write((l2 + 8 * used) as u64, &[0; 8]);
    // A corruption: the same entry's COPIED flag is wrong.
    let entry = word(l2 + 8 * used) & !(1 << 63);
    Disk::open(&broken).write((l2 + 8 * used) as u64, &entry.to_be_bytes());

    checks_like_qemu(&leaky);
    checks_like_qemu(&broken);
    assert_eq!(run_ours("sendense-image", &["check", text(&leaky)]).code, 3);
    assert_eq!(
        run_ours("sendense-image", &["check", text(&broken)]).code,
        2
    );
    run_ours("sendense-image", &["check", "-r", "leaks", text(&leaky)]).ok();
    oracle::check_clean(&leaky);
}

#[test]
fn leaks_are_not_repaired_where_that_would_make_the_image_worse() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("snap.qcow2");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "4M"],
    )
    .ok();
    oracle::qemu_io(&["-f", "qcow2", text(&image)], &["write -P 5 0 1M"]).ok();
    run("qemu-img", &["snapshot", "-c", "before", text(&image)]).ok();
    // The snapshot table is lost: its clusters look leaked, and the active layer's entries still
    // say that they are shared.
    Disk::open(&image).write(60, &[0; 4]);
    let before = std::fs::read(&image).unwrap();
    assert_eq!(run_ours("sendense-image", &["check", text(&image)]).code, 3);
    let ran = run_ours("sendense-image", &["check", "-r", "leaks", text(&image)]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert_eq!(std::fs::read(&image).unwrap(), before, "{}", ran.stderr);
}
