//! Show 4: other people's NBD clients on our server: fio with verify, qemu-io, nbdinfo, TLS.

use std::path::Path;

use sendense_tests::command::{run, run_ours};
use sendense_tests::daemon::Daemon;
use sendense_tests::disk::Disk;
use sendense_tests::{backup, mover, oracle};
use serde_json::json;

#[track_caller]
fn sparse_full(daemon: &Daemon, vm: &str, size: u64) -> serde_json::Value {
    daemon.start_backup(&json!({
        "vm_name": vm, "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": size, "sparse": true }],
    }))
}

#[test]
fn fio_verifies_what_it_wrote_with_four_jobs_and_mixed_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let started = sparse_full(&daemon, "fio", 256 << 20);
    let uri = format!("--uri={}", backup::uri(&started, 0));
    let ran = run(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=512-128k",
            "--bs_unaligned=1",
            "--iodepth=16",
            "--numjobs=4",
            "--size=24m",
            "--offset_increment=60m",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--randseed=9",
            "--group_reporting",
            "--verify_state_save=0",
        ],
    )
    .ok();
    assert!(!ran.stderr.contains("verify failed"), "{}", ran.stderr);
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::check_clean(&daemon.images(&id)[0]);
}

#[test]
fn fio_mixes_reads_and_writes_of_several_sizes_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let started = sparse_full(&daemon, "mixed", 256 << 20);
    let uri = format!("--uri={}", backup::uri(&started, 0));
    for sizes in ["--bs=512", "--bs=4k", "--bs=64k", "--bsrange=512-256k"] {
        let size = if sizes == "--bs=512" { "2m" } else { "12m" };
        let ran = run(
            "fio",
            &[
                "--name=mixed",
                "--ioengine=nbd",
                &uri,
                "--rw=randrw",
                "--rwmixread=40",
                sizes,
                "--iodepth=16",
                "--numjobs=4",
                &format!("--size={size}"),
                "--offset_increment=60m",
                "--verify=crc32c",
                "--do_verify=1",
                "--verify_fatal=1",
                "--randseed=11",
                "--group_reporting",
                "--verify_state_save=0",
                "--output-format=json",
            ],
        )
        .ok();
        assert!(!ran.stderr.contains("verify failed"), "{}", ran.stderr);
        let report: serde_json::Value =
            serde_json::from_str(&ran.stdout[ran.stdout.find('{').unwrap()..]).unwrap();
        for way in ["read", "write"] {
            let bytes = report["jobs"][0][way]["io_bytes"].as_u64().unwrap();
            assert!(bytes > 0, "{sizes} {way}: {report}");
        }
    }
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::check_clean(&daemon.images(&id)[0]);
}

#[test]
fn nbdinfo_sees_sizes_flags_and_the_allocation_map_of_a_growing_target() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let size = (16 << 20) + 512;
    let started = sparse_full(&daemon, "growing", size);
    let uri = backup::uri(&started, 0);
    oracle::qemu_io(
        &["-f", "raw", &uri],
        &["write -P 7 1M 1M", "write -P 8 16M 512", "flush"],
    )
    .ok();
    let info = run("nbdinfo", &["--json", &uri]).ok().json();
    let seen = &info["exports"][0];
    assert_eq!(seen["export-size"], size, "{info}");
    for (key, value) in [
        ("is_read_only", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_trim", true),
        ("can_zero", true),
        ("can_fast_zero", true),
        ("can_multi_conn", true),
    ] {
        assert_eq!(seen[key], value, "{key}: {info}");
    }
    assert_eq!(
        allocation(&uri),
        [
            (0, 1 << 20, true),
            (1 << 20, 1 << 20, false),
            (2 << 20, 14 << 20, true),
            (16 << 20, 512, false)
        ]
    );
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
}

/// `nbdinfo --map`: offset, length, whether it reads as zero.
#[track_caller]
fn allocation(uri: &str) -> Vec<(u64, u64, bool)> {
    let map = run("nbdinfo", &["--map", "--json", uri]).ok().json();
    map.as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let n = |k: &str| e[k].as_u64().unwrap();
            (n("offset"), n("length"), n("type") & 2 != 0)
        })
        .collect()
}

#[test]
fn qemu_io_patterns_read_back_before_and_after_the_seal() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let started = sparse_full(&daemon, "patterns", 64 << 20);
    let uri = backup::uri(&started, 0);
    oracle::qemu_io(
        &["-f", "raw", &uri],
        &[
            "write -P 0xaa 0 8M",
            "write -P 0xbb 1000 70000",
            "write -z 512k 64k",
            "write -z -u 2M 100k",
            "discard 4M 1M",
            "flush",
            "read -P 0 512k 64k",
            "read -P 0xbb 1000 70000",
            "read -P 0 4M 1M",
            "write -P 0xcc 4196352 512",
            "read -P 0xcc 4196352 512",
            "read -P 0 4196864 512",
            "aio_write -P 0xdd 10M 3M",
            "aio_flush",
            "read -P 0xdd 10M 3M",
            "read -P 0 60M 4M",
        ],
    )
    .ok();
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    let image = daemon.images(&id).remove(0);
    oracle::check_clean(&image);
    oracle::qemu_io(
        &["-r", "-f", "qcow2", image.to_str().unwrap()],
        &[
            "read -P 0xbb 1000 70000",
            "read -P 0 512k 64k",
            "read -P 0xcc 4196352 512",
            "read -P 0xdd 10M 3M",
        ],
    )
    .ok();
}

#[test]
fn nbdinfo_sees_sizes_flags_and_the_allocation_map_of_a_restore_export() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::empty(&dir.path().join("disk.raw"), (16 << 20) + 512);
    disk.write(1 << 20, &[7; 1 << 20]);
    disk.write(16 << 20, &[9; 512]);
    let id = backup::full(&daemon, "mapped", &disk, "t");
    let export = daemon
        .post("/restore/export", &json!({ "backup_id": id, "disk_id": 0 }))
        .expect(201);
    let uri = export["nbd_uris"][0].as_str().unwrap();

    let info = run("nbdinfo", &["--json", uri]).ok().json();
    let seen = &info["exports"][0];
    assert_eq!(seen["export-size"], disk.size(), "{info}");
    assert_eq!(seen["is_read_only"], true, "{info}");
    assert_eq!(seen["can_multi_conn"], true, "{info}");
    assert!(
        seen["contexts"].to_string().contains("base:allocation"),
        "{info}"
    );

    assert_eq!(
        allocation(uri),
        [
            (0, 1 << 20, true),
            (1 << 20, 1 << 20, false),
            (2 << 20, 14 << 20, true),
            (16 << 20, 512, false)
        ]
    );
    let copied = dir.path().join("copied.raw");
    run("nbdcopy", &[uri, copied.to_str().unwrap()]).ok();
    oracle::same_bytes(&copied, &disk.path);

    let gone = export["export_id"].as_str().unwrap();
    let status = daemon.delete(&format!("/restore/export/{gone}")).status;
    assert!([200, 204].contains(&status), "{status}");
    assert_ne!(run("nbdinfo", &[uri]).code, 0);
}

#[test]
fn writing_into_a_restore_export_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 4 << 20, 50, 1);
    let id = backup::full(&daemon, "ro", &disk, "t");
    let export = daemon
        .post("/restore/export", &json!({ "backup_id": id, "disk_id": 0 }))
        .expect(201);
    let plan = json!({
        "connections": 1, "window": 1,
        "ops": [{ "conn": 0, "op": "write", "at": 0, "len": 512 }, { "conn": 0, "op": "zero", "at": 0, "len": 512 }],
    });
    let sent = mover::send(&disk.path, export["nbd_uris"][0].as_str().unwrap(), &plan);
    assert_eq!(sent.errors.len(), 2, "{:?}", sent.errors);
    assert!(
        sent.errors.iter().all(|e| e["errno"] == "EPERM"),
        "{:?}",
        sent.errors
    );
}

#[track_caller]
fn tls_daemon(dir: &Path) -> Daemon {
    let pki = dir.join("pki");
    run_ours("sendensed", &["tls", "init", pki.to_str().unwrap()]).ok();
    Daemon::start_with_config(
        &dir.join("data"),
        &format!(
            "[nbd]
tls_dir = {pki:?}
"
        ),
    )
}

#[test]
fn tls_serves_nbdinfo_and_qemu_img_and_refuses_plaintext() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = tls_daemon(dir.path());
    let pki = dir.path().join("pki");
    let pki = pki.to_str().unwrap();
    let started = sparse_full(&daemon, "tls", 8 << 20);
    let name = started["disks"][0]["export_name"].as_str().unwrap();
    let port = daemon.nbd.rsplit(':').next().unwrap();

    let plain = run("nbdinfo", &[&format!("nbd://localhost:{port}/{name}")]);
    assert_ne!(plain.code, 0, "{}", plain.stdout);

    let secure = format!("nbds://localhost:{port}/{name}?tls-certificates={pki}");
    let info = run("nbdinfo", &["--json", &secure]).ok().json();
    assert_eq!(info["TLS"], true, "{info}");

    let creds = format!("tls-creds-x509,id=c0,endpoint=client,dir={pki}");
    let options = format!("driver=nbd,host=localhost,port={port},export={name},tls-creds=c0");
    run(
        "qemu-img",
        &["info", "--object", &creds, "--image-opts", &options],
    )
    .ok();
    oracle::qemu_io(
        &["--object", &creds, "--image-opts", &options],
        &["write -P 5 0 3M", "read -P 5 0 3M", "flush"],
    )
    .ok();

    // A whole disk goes in over TLS, and comes out again.
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 8 << 20, 60, 4);
    let raw = disk.path.to_str().unwrap();
    let convert = ["convert", "-n", "--object", &creds, "-f", "raw", "-W"];
    let to = ["--target-image-opts", raw, &options];
    run("qemu-img", &[&convert[..], &to[..]].concat()).ok();
    let id = backup::id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::identical(&daemon.images(&id)[0], &disk.path);
    let export = daemon
        .post("/restore/export", &json!({ "backup_id": id, "disk_id": 0 }))
        .expect(201);
    let name = export["export_name"].as_str().unwrap();
    let options = format!("driver=nbd,host=localhost,port={port},export={name},tls-creds=c0");
    let copy = dir.path().join("copy.raw");
    let copy = copy.to_str().unwrap();
    let objects = ["--object", &creds, "--image-opts", &options];
    run(
        "qemu-img",
        &[&["convert"], &objects[..], &["-O", "raw", copy]].concat(),
    )
    .ok();
    oracle::same_bytes(copy.as_ref(), &disk.path);
    let plain = format!("driver=raw,file.driver=file,file.filename={raw}");
    let compare = [&["compare"], &objects[..], &[&plain]].concat();
    let ran = run("qemu-img", &compare);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn libnbd_launches_the_daemon_by_socket_activation() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::scattered(&dir.path().join("disk.raw"), 4 << 20, 50, 9);
    let exports = dir.path().join("exports.conf");
    let raw = disk.path.display();
    std::fs::write(&exports, format!("[generic]\n[disk]\nexportname = {raw}\n")).unwrap();
    let config = dir.path().join("sendensed.toml");
    std::fs::write(&config, format!("[nbd]\nexports = {exports:?}\n")).unwrap();
    let script = format!(
        "import nbd\nh = nbd.NBD()\nh.set_export_name('disk')\n\
         h.connect_systemd_socket_activation([{:?}, '--data-dir', {:?}, '--config', {:?}, \
         '--listen', '127.0.0.1:0', '--nbd-listen', '127.0.0.1:0'])\n\
         open({:?}, 'wb').write(h.pread(h.get_size(), 0))\n",
        sendense_tests::command::ours("sendensed"),
        dir.path().join("data"),
        config,
        dir.path().join("read.raw"),
    );
    run("/usr/bin/python3", &["-c", &script]).ok();
    oracle::same_bytes(&dir.path().join("read.raw"), &disk.path);
}
