//! Show 3: images of other makers read identical, map entry by entry, check with QEMU's verdict.

use std::path::Path;

use sendense_tests::command::{run, run_ours, text};
use sendense_tests::disk::Disk;
use sendense_tests::image::{SIZE, checks_like_qemu, maps_like_qemu, reads_as, source};
use sendense_tests::oracle;

/// The matrix: a name and the arguments of `qemu-img create` or `convert`.
const MATRIX: &[(&str, &[&str])] = &[
    ("v2", &["-o", "compat=0.10"]),
    ("v2-512", &["-o", "compat=0.10,cluster_size=512"]),
    ("c512", &["-o", "cluster_size=512"]),
    ("c1k", &["-o", "cluster_size=1k"]),
    ("c4k", &["-o", "cluster_size=4k"]),
    ("c32k", &["-o", "cluster_size=32k"]),
    ("c64k", &["-o", "cluster_size=64k"]),
    ("c128k", &["-o", "cluster_size=128k"]),
    ("c256k", &["-o", "cluster_size=256k"]),
    ("c1m", &["-o", "cluster_size=1M"]),
    ("c2m", &["-o", "cluster_size=2M"]),
    ("rb1", &["-o", "refcount_bits=1"]),
    ("rb2", &["-o", "refcount_bits=2"]),
    ("rb4", &["-o", "refcount_bits=4"]),
    ("rb8", &["-o", "refcount_bits=8"]),
    ("rb32", &["-o", "refcount_bits=32"]),
    ("rb64", &["-o", "refcount_bits=64"]),
    ("zlib", &["-c"]),
    ("zlib-4k", &["-c", "-o", "cluster_size=4k"]),
    ("zlib-2m", &["-c", "-o", "cluster_size=2M"]),
    ("zstd", &["-c", "-o", "compression_type=zstd"]),
    (
        "zstd-2m",
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    ),
    ("extl2", &["-o", "extended_l2=on,cluster_size=128k"]),
    ("extl2-2m", &["-o", "extended_l2=on,cluster_size=2M"]),
    ("lazy", &["-o", "lazy_refcounts=on"]),
    ("prealloc", &["-o", "preallocation=metadata"]),
];

#[test]
fn a_matrix_of_foreign_images_reads_maps_and_checks_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let disk = source(dir.path());
    for (name, args) in MATRIX {
        let image = dir.path().join(format!("{name}.qcow2"));
        let mut all = vec!["convert", "-f", "raw", "-O", "qcow2"];
        all.extend_from_slice(args);
        let ran = run(
            "qemu-img",
            &[&all[..], &[text(&disk.path), text(&image)]].concat(),
        );
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        reads_as(&image, &disk.path);
        maps_like_qemu(&image);
        checks_like_qemu(&image);
    }
}

#[test]
fn snapshots_backing_chains_dirty_and_corrupt_images_read_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let disk = source(dir.path());
    let base = dir.path().join("base.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&disk.path),
            text(&base),
        ],
    )
    .ok();

    // An internal snapshot, then other content in the active layer.
    let snap = dir.path().join("snap.qcow2");
    std::fs::copy(&base, &snap).unwrap();
    run("qemu-img", &["snapshot", "-c", "before", text(&snap)]).ok();
    oracle::qemu_io(
        &["-f", "qcow2", text(&snap)],
        &["write -P 7 1M 3M", "write -z 8M 1M"],
    )
    .ok();
    let raw = dir.path().join("snap.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            text(&snap),
            text(&raw),
        ],
    )
    .ok();
    reads_as(&snap, &raw);
    maps_like_qemu(&snap);
    checks_like_qemu(&snap);

    // A chain of three with zeroes, discards and a longer top, relative names.
    let mut below = "base.qcow2".to_owned();
    for (i, commands) in [
        [
            "write -P 1 64k 200k",
            "write -z 2M 1M",
            "write -P 2 10M 70k",
        ],
        [
            "write -P 3 100k 512",
            "discard 10M 64k",
            "write -P 4 20M 1M",
        ],
    ]
    .iter()
    .enumerate()
    {
        let name = format!("over{i}.qcow2");
        let path = dir.path().join(&name);
        let size = (SIZE + (i as u64) * (9 << 20)).to_string();
        run(
            "qemu-img",
            &[
                "create",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                &below,
                text(&path),
                &size,
            ],
        )
        .ok();
        oracle::qemu_io(&["-f", "qcow2", text(&path)], commands).ok();
        below = name;
        let raw = dir.path().join(format!("over{i}.raw"));
        run(
            "qemu-img",
            &[
                "convert",
                "-f",
                "qcow2",
                "-O",
                "raw",
                text(&path),
                text(&raw),
            ],
        )
        .ok();
        reads_as(&path, &raw);
        maps_like_qemu(&path);
        checks_like_qemu(&path);
    }

    // Header flags: dirty (bit 0) and corrupt (bit 1) read; check names them.
    for (bit, word) in [(1u8, "dirty"), (2, "corrupt")] {
        let flagged = dir.path().join(format!("{word}.qcow2"));
        std::fs::copy(&base, &flagged).unwrap();
        Disk::open(&flagged).write(79, &[bit]);
        reads_as(&flagged, &disk.path);
        maps_like_qemu(&flagged);
        let ran = run_ours("sendense-image", &["check", text(&flagged)]);
        assert!(
            ran.stdout.contains(word) || ran.stderr.contains(word),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
    }
}

#[test]
fn partial_subclusters_over_a_backing_file_read_as_in_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let disk = source(dir.path());
    let base = dir.path().join("base.qcow2");
    convert_with_qemu("raw", &disk.path, "qcow2", &base);
    for (cluster, sub) in [(64 << 10, 2048), (128 << 10, 4096), (2 << 20, 65536)] {
        let image = dir.path().join(format!("over-{cluster}.qcow2"));
        let options = format!("extended_l2=on,cluster_size={cluster}");
        let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2"];
        let named = ["-b", "base.qcow2", "-o", &options, text(&image)];
        run("qemu-img", &[&create[..], &named[..]].concat()).ok();
        // One subcluster, several with a gap, a part of one (copied from below), zeroed and
        // discarded ones, a cluster with all three kinds, the disk's end.
        let at = |clusters: u64, subs: u64| clusters * cluster + subs * sub;
        let commands = [
            format!("write -P 1 {} {sub}", at(1, 3)),
            format!("write -P 2 {} {}", at(2, 30), 4 * sub),
            format!("write -P 3 {} 512", at(4, 7) + 512),
            format!("write -z {} {}", at(1, 8), 3 * sub),
            format!("write -z -u {} {sub}", at(2, 31)),
            format!("discard {} {}", at(4, 0), 2 * sub),
            format!("write -z {} {}", at(5, 0), cluster),
            format!("write -P 4 {} {sub}", at(5, 16)),
            format!("write -P 5 {} 512", SIZE - 512),
        ];
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        oracle::qemu_io(&["-f", "qcow2", text(&image)], &commands).ok();
        let raw = dir.path().join("over.raw");
        convert_with_qemu("qcow2", &image, "raw", &raw);
        reads_as(&image, &raw);
        maps_like_qemu(&image);
        checks_like_qemu(&image);
    }
}

#[track_caller]
fn convert_with_qemu(from: &str, source: &Path, to: &str, target: &Path) {
    let args = ["convert", "-f", from, "-O", to, text(source), text(target)];
    run("qemu-img", &args).ok();
}
