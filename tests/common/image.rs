//! Images under our tool and QEMU's: both must read, map and check them alike.

use std::path::Path;

use crate::command::{run, run_ours, text};
use crate::disk::Disk;
use crate::oracle;

/// Bytes of [`source`]: no whole number of clusters.
pub const SIZE: u64 = (24 << 20) + 512 * 3;

/// A disk for images of all kinds, raw in `dir`.
pub fn source(dir: &Path) -> Disk {
    let disk = Disk::scattered(&dir.join("source.raw"), SIZE, 30, 3);
    // Some half-compressible and some sub-cluster data, and the very last bytes.
    let text: Vec<u8> = (0..300_000u32)
        .flat_map(|i| (i / 7).to_le_bytes())
        .collect();
    disk.write(3 << 20, &text[..700_000]);
    disk.write((5 << 20) + 512, &[0xa5; 1024]);
    disk.write(SIZE - 512, &[0x5a; 512]);
    disk
}

/// Our tools read an image, through its whole chain, as the raw file.
#[track_caller]
pub fn reads_as(image: &Path, raw: &Path) {
    let ours = run_ours(
        "sendense-image",
        &[
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(image),
            text(raw),
        ],
    );
    assert_eq!(
        ours.code,
        0,
        "{}: {}{}",
        image.display(),
        ours.stdout,
        ours.stderr
    );
    let out = image.with_extension("out");
    run_ours(
        "sendense-image",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(image),
            text(&out),
        ],
    )
    .ok();
    oracle::same_bytes(&out, raw);
    std::fs::remove_file(out).unwrap();
}

/// Our map of an image is QEMU's, entry by entry.
#[track_caller]
pub fn maps_like_qemu(image: &Path) {
    let theirs = oracle::map(image, "qcow2");
    let ours = run_ours("sendense-image", &["map", "--output", "json", text(image)])
        .ok()
        .json();
    let (theirs, ours) = (theirs.as_array().unwrap(), ours.as_array().unwrap());
    for (i, entry) in theirs.iter().enumerate() {
        assert_eq!(Some(entry), ours.get(i), "{}: entry {i}", image.display());
    }
    assert_eq!(theirs.len(), ours.len(), "{}", image.display());
}

/// Our check of an image ends as QEMU's does.
#[track_caller]
pub fn checks_like_qemu(image: &Path) {
    let theirs = run("qemu-img", &["check", "-f", "qcow2", text(image)]);
    let ours = run_ours("sendense-image", &["check", text(image)]);
    assert_eq!(
        theirs.code,
        ours.code,
        "{}: {}{}",
        image.display(),
        theirs.stdout,
        ours.stdout
    );
}
