//! QEMU's own tools as judges of what we wrote.

use std::path::Path;

use crate::command::{Ran, run, text};

/// `qemu-img check` finds nothing at all: no corruption, no leak.
#[track_caller]
pub fn check_clean(image: &Path) {
    let ran = run("qemu-img", &["check", "-f", "qcow2", text(image)]);
    assert_eq!(
        ran.code,
        0,
        "{}: {}{}",
        image.display(),
        ran.stdout,
        ran.stderr
    );
}

/// `qemu-img compare` calls the image, through its whole chain, identical to the raw file.
#[track_caller]
pub fn identical(image: &Path, raw: &Path) {
    let ran = compare(image, raw);
    assert_eq!(
        ran.code,
        0,
        "{}: {}{}",
        image.display(),
        ran.stdout,
        ran.stderr
    );
}

/// `qemu-img compare` of a QCOW2 chain with a raw file.
#[track_caller]
pub fn compare(image: &Path, raw: &Path) -> Ran {
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(image),
            text(raw),
        ],
    )
}

/// Two raw files hold the same bytes and have the same length. Reads both in step, skipping
/// nothing.
#[track_caller]
pub fn same_bytes(a: &Path, b: &Path) {
    let ran = run("cmp", &[text(a), text(b)]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}

/// `qemu-img info` as JSON.
#[track_caller]
pub fn info(image: &Path) -> serde_json::Value {
    run(
        "qemu-img",
        &["info", "--output=json", "-f", "qcow2", text(image)],
    )
    .ok()
    .json()
}

/// `qemu-img map` as JSON.
#[track_caller]
pub fn map(image: &Path, format: &str) -> serde_json::Value {
    run(
        "qemu-img",
        &["map", "--output=json", "-f", format, text(image)],
    )
    .ok()
    .json()
}

/// Runs `qemu-io` commands on something.
#[track_caller]
pub fn qemu_io(args: &[&str], commands: &[&str]) -> Ran {
    let mut all = args.to_vec();
    for c in commands {
        all.push("-c");
        all.push(c);
    }
    run("qemu-io", &all)
}
