//! Show 3: images of other makers read identical, map entry by entry, check with QEMU's verdict;
//! and QEMU writes on in ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sendense_tests::command::{run, run_ours};
use sendense_tests::disk::{Disk, Random, scattered_changes};
use sendense_tests::{backup, daemon::Daemon, mover, oracle};
use serde_json::json;

const SIZE: u64 = (24 << 20) + 512 * 3;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

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

fn source(dir: &Path) -> Disk {
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

#[track_caller]
fn reads_as(image: &Path, raw: &Path) {
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

#[track_caller]
fn maps_like_qemu(image: &Path) {
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

#[track_caller]
fn checks_like_qemu(image: &Path) {
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
