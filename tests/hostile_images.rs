//! Hostile images and backing names: refused with one clear error, nothing outside is read.

use std::path::PathBuf;

use sendense_tests::command::{run, run_ours, text};
use sendense_tests::disk::Disk;

#[test]
fn hostile_images_are_refused_with_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("source.raw"), 8 << 20, 30, 3);
    let good = dir.path().join("good.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&disk.path),
            text(&good),
        ],
    )
    .ok();
    let bytes = std::fs::read(&good).unwrap();
    let make = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| -> PathBuf {
        let mut copy = bytes.clone();
        edit(&mut copy);
        let path = dir.path().join(name);
        std::fs::write(&path, copy).unwrap();
        path
    };
    let cases: Vec<(&str, PathBuf)> = vec![
        ("wrong magic", make("magic", &|b| b[0] = b'X')),
        ("half a header", make("half", &|b| b.truncate(60))),
        ("an empty file", make("empty", &|b| b.clear())),
        ("cut behind the header", make("cut", &|b| b.truncate(65536))),
        (
            "an L1 of 4 GiB",
            make("l1", &|b| b[36..40].copy_from_slice(&[0x20, 0, 0, 0])),
        ),
        (
            "a disk of 2^63",
            make("bomb", &|b| {
                b[24..32].copy_from_slice(&(1u64 << 63).to_be_bytes())
            }),
        ),
        (
            "clusters of 2^31",
            make("cluster", &|b| {
                b[20..24].copy_from_slice(&31u32.to_be_bytes())
            }),
        ),
        ("an unknown feature", make("feature", &|b| b[72] = 0x80)),
        (
            "encryption",
            make("crypt", &|b| b[32..36].copy_from_slice(&2u32.to_be_bytes())),
        ),
        ("an external data file", make("data", &|b| b[79] |= 4)),
        (
            "an L1 beyond the end",
            make("beyond", &|b| {
                b[40..48].copy_from_slice(&(1u64 << 50).to_be_bytes())
            }),
        ),
    ];
    for (what, path) in cases {
        for tool in [&["info"][..], &["check"], &["map", "--output", "json"]] {
            let ran = run_ours(
                "sendense-image",
                &[tool, &["-f", "qcow2", text(&path)]].concat(),
            );
            assert!(
                [1, 2].contains(&ran.code),
                "{what} {tool:?}: exit {}\n{}{}",
                ran.code,
                ran.stdout,
                ran.stderr
            );
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!said.contains("panicked"), "{what}: {said}");
        }
    }
}

#[test]
fn backing_names_that_point_outside_are_refused_and_cycles_end() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, vec![b's'; 1 << 20]).unwrap();
    for name in [
        text(&secret),
        "../secret",
        "json:{\"driver\":\"raw\"}",
        "nbd://127.0.0.1/x",
    ] {
        let image = inner.join("top.qcow2");
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                name,
                text(&image),
                "1M",
            ],
        )
        .ok();
        let ran = run_ours(
            "sendense-image",
            &[
                "convert",
                "-O",
                "raw",
                text(&image),
                text(&inner.join("out")),
            ],
        );
        assert_ne!(ran.code, 0, "{name}: {}", ran.stdout);
        assert!(!inner.join("out").exists(), "{name}");
        std::fs::remove_file(&image).unwrap();
    }
    let (a, b) = (inner.join("a.qcow2"), inner.join("b.qcow2"));
    for (path, backing) in [(&a, "b.qcow2"), (&b, "a.qcow2")] {
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "qcow2",
                "-b",
                backing,
                text(path),
                "1M",
            ],
        )
        .ok();
    }
    let ran = run_ours("sendense-image", &["map", text(&a)]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
}

#[test]
fn a_link_in_an_allowed_directory_does_not_lead_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["inner", "allowed", "secret"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("secret/disk"), vec![b's'; 1 << 20]).unwrap();
    std::fs::write(path("allowed/disk"), vec![b'a'; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("../secret/disk", path("allowed/link")).unwrap();
    std::os::unix::fs::symlink("../secret", path("allowed/way")).unwrap();
    let (image, out) = (path("inner/top.qcow2"), path("inner/out"));
    let (allowed, way) = (path("allowed"), path("allowed/way/disk"));
    for (name, followed) in [
        ("../allowed/disk", true),
        ("../allowed/link", false),
        ("../allowed/way/disk", false),
        ("../allowed/../secret/disk", false),
        (text(&way), false),
    ] {
        let create = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name];
        run("qemu-img", &[&create[..], &[text(&image), "1M"]].concat()).ok();
        let allow = ["convert", "--allow-backing", text(&allowed)];
        let ran = run_ours(
            "sendense-image",
            &[&allow[..], &[text(&image), text(&out)]].concat(),
        );
        assert_eq!(ran.code == 0, followed, "{name}: {}", ran.stderr);
        assert_eq!(out.exists(), followed, "{name}");
        if followed {
            assert!(std::fs::read(&out).unwrap().iter().all(|b| *b == b'a'));
            std::fs::remove_file(&out).unwrap();
        }
        std::fs::remove_file(&image).unwrap();
    }
    // The allowed path itself is the operator's word, whatever it is.
    let (base, link) = (path("secret/disk"), path("link"));
    std::os::unix::fs::symlink(&base, &link).unwrap();
    let create = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"];
    run(
        "qemu-img",
        &[&create[..], &["../link", text(&image), "1M"]].concat(),
    )
    .ok();
    let allow = ["info", "--backing-chain", "--allow-backing", text(&link)];
    run_ours("sendense-image", &[&allow[..], &[text(&image)]].concat()).ok();
}

#[test]
fn bitmaps_and_snapshots_that_only_claim_to_be_large_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image.qcow2");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", text(&image), "4M"],
    )
    .ok();
    run("qemu-img", &["bitmap", "--add", text(&image), "b"]).ok();
    let length = 65 << 20;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap();
    file.set_len(length).unwrap();
    let bytes = std::fs::read(&image).unwrap();
    // The bitmaps extension: how many, reserved, bytes of the directory, its place.
    let at = bytes
        .windows(4)
        .position(|w| w == 0x2385_2875_u32.to_be_bytes())
        .unwrap();
    Disk::open(&image).write(at as u64 + 16, &(length - (1 << 20)).to_be_bytes());
    let ran = run_ours("sendense-image", &["check", text(&image)]);
    assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
    // Found in a file of 8 TiB in no time and no memory.
    Disk::open(&image).write(at as u64 + 16, &(1_u64 << 42).to_be_bytes());
    file.set_len(1 << 43).unwrap();
    let tool = sendense_tests::command::ours("sendense-image");
    let limited = "ulimit -v 600000; exec timeout 20 \"$0\" check \"$1\"";
    let ran = run("bash", &["-c", limited, text(&tool), text(&image)]);
    assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("bitmap directory"), "{}", ran.stdout);
}
