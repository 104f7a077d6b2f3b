//! The volumes on a machine's disks, and their files, with the offline tool alone.

use std::path::Path;

use sendense_tests::backup;
use sendense_tests::command::{run, run_ours};
use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk};
use serde_json::Value;

/// A disk with a GPT: an ext4, the signature of an encrypted volume, and nothing.
fn make_disk(path: &Path) -> Vec<Value> {
    let name = path.to_str().unwrap();
    let script = path.with_extension("script");
    std::fs::write(
        &script,
        "label: gpt\nsize=16MiB, name=root\nsize=2MiB\nsize=1MiB\n",
    )
    .unwrap();
    run("truncate", &["-s", "24M", name]).ok();
    let made = format!("sfdisk -q {name} < {}", script.display());
    run("sh", &["-c", &made]).ok();
    let told = run("sfdisk", &["--json", name]).ok().json();
    let parts = told["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .clone();
    let start = |n: usize| parts[n]["start"].as_u64().unwrap() * 512;
    let offset = format!("offset={}", start(0));
    run("mkfs.ext4", &["-q", "-F", "-E", &offset, name, "16M"]).ok();
    let mut bytes = std::fs::read(path).unwrap();
    let luks = usize::try_from(start(1)).unwrap();
    bytes[luks..luks + 6].copy_from_slice(b"LUKS\xba\xbe");
    std::fs::write(path, bytes).unwrap();
    parts
}

#[test]
fn volumes_of_all_disks_are_listed_and_what_is_not_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let parts = make_disk(Path::new(&at("disk")));
    let (base, top) = (at("base.qcow2"), at("top.qcow2"));
    run("qemu-img", &["convert", "-O", "qcow2", &at("disk"), &base]).ok();
    let backing = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        &top,
    ];
    run("qemu-img", &backing).ok();
    run("truncate", &["-s", "1M", &at("empty")]).ok();

    let listed = run_ours(
        "sendense-image",
        &["files", &top, &at("empty"), "--output", "json"],
    );
    let listed = listed.ok().json();
    let of = |key: &str| -> Vec<Value> {
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v[key].clone())
            .collect()
    };
    assert_eq!(
        of("id"),
        ["disk0-part1", "disk0-part2", "disk0-part3", "disk1"]
    );
    let sizes: Vec<u64> = parts
        .iter()
        .map(|p| p["size"].as_u64().unwrap() * 512)
        .collect();
    assert_eq!(of("size")[..3], sizes);
    assert_eq!(of("name")[0], "root");
    assert_eq!(of("content")[0], "ext2, ext3 or ext4");
    assert_eq!(
        (&of("content")[1], &of("state")[1]),
        (&"LUKS encryption".into(), &"unsupported".into())
    );
    assert_eq!(of("state")[2..], [Value::Null, Value::Null]);
    let human = run_ours("sendense-image", &["files", &top]).ok().stdout;
    assert!(
        human.contains("disk0-part2") && human.contains("LUKS"),
        "{human}"
    );

    let to = at("to");
    for (volume, what) in [
        ("disk0-part2", "LUKS"),
        ("disk0-part3", "no file system"),
        ("disk7", "disk0-part1"),
    ] {
        let files = run_ours("sendense-image", &["files", &top, "--volume", volume]);
        assert_eq!(files.code, 1, "{files:?}");
        assert!(
            files.stderr.contains(what) && files.stderr.contains("hint"),
            "{files:?}"
        );
        let out = [
            "extract",
            &top,
            "--volume",
            volume,
            "--file",
            "/",
            "--output-dir",
            &to,
        ];
        let out = run_ours("sendense-image", &out);
        assert_eq!(out.code, 1, "{out:?}");
        assert!(!Path::new(&to).exists());
    }
    let usage = run_ours("sendense-image", &["files", &top, "--recursive"]);
    assert_eq!(usage.code, 64, "{usage:?}");
}

const PART: u64 = 1 << 20;

/// Puts an ext4 that holds this tree into the disk's one partition.
fn fill(disk: &Path, tree: &Path) {
    let (fs, disk) = (disk.with_extension("fs"), disk.to_str().unwrap());
    let (fs, tree) = (fs.to_str().unwrap(), tree.to_str().unwrap());
    run("truncate", &["-s", "47M", fs]).ok();
    run("mkfs.ext4", &["-q", "-F", "-d", tree, fs]).ok();
    let (from, to) = (format!("if={fs}"), format!("of={disk}"));
    let dd = ["bs=1M", "seek=1", "conv=notrunc", "status=none", &from, &to];
    run("dd", &dd).ok();
}

/// Type, mode, size of files, time of change in whole seconds (mke2fs copies no more), links and
/// targets, of everything below.
fn told(tree: &Path) -> String {
    let script = r#"cd "$1" && find . -mindepth 1 ! -path ./lost+found \
        \( -type d -printf '%p %y %m %T@\n' -o -printf '%p %y %m %s %n %T@ %l\n' \) | sed -E 's/ ([0-9]+)\.[0-9]+/ \1/' | sort"#;
    let listed = run("sh", &["-c", script, "sh", tree.to_str().unwrap()]);
    listed.ok().stdout.clone()
}

#[test]
fn files_of_each_point_of_a_chain_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).to_str().unwrap().to_owned();
    let shell = |script: &str| run("sh", &["-c", script, "sh", &text("tree")]).ok();
    shell(
        r#"mkdir -p "$1/var/www/deep/er" && cd "$1" && echo one > var/www/index.php &&
        ln -s ../www/index.php var/www/link && ln -s /etc/shadow var/out && ln var/www/index.php hard &&
        head -c 3000000 /dev/urandom > big && truncate -s 20M sparse && echo end >> sparse &&
        chmod 4750 big && for i in $(seq 300); do echo $i > "var/www/deep/er/n $i"; done &&
        touch -d '2001-02-03 04:05:06.789' big"#,
    );
    run("truncate", &["-s", "48M", &text("disk")]).ok();
    run(
        "sh",
        &[
            "-c",
            &format!("echo 'start=2048,type=83' | sfdisk -q {}", text("disk")),
        ],
    )
    .ok();
    fill(&at("disk"), &at("tree"));
    let d = Daemon::start(&at("data"));
    let disk = Disk::open(&at("disk"));
    let full = backup::full(&d, "vm", &disk, "u/0");
    run("cp", &["-a", &text("tree"), &text("first")]).ok();
    shell(
        r#"cd "$1" && echo two > var/www/index.php && rm "var/www/deep/er/n 7" && mkdir new && echo x > new/x"#,
    );
    fill(&at("disk"), &at("tree"));
    let change = [Change {
        at: PART,
        len: disk.size() - PART,
        act: Act::Write,
    }];
    let incremental = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &change);
    for (id, was) in [(full, "first"), (incremental, "tree")] {
        let image = d.images(&id)[0].clone();
        let image = image.to_str().unwrap();
        let out = text(&format!("out-{was}"));
        let extract = [
            "extract",
            image,
            "--volume",
            "disk0-part1",
            "--file",
            "/*",
            "--output-dir",
            &out,
        ];
        run_ours("sendense-image", &extract).ok();
        let diff = [
            "-r",
            "--no-dereference",
            "-x",
            "lost+found",
            &text(was),
            &out,
        ];
        run("diff", &diff).ok();
        assert_eq!(told(Path::new(&out)), told(&at(was)));
        let listed = ["files", image, "--volume", "disk0-part1", "--path", "/var"];
        let listed = run_ours("sendense-image", &listed).ok().stdout.clone();
        assert!(listed.contains("/etc/shadow"), "{listed}");
    }
}
