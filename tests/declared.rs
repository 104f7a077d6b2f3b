//! Show 9: exports declared in nbd-server's own configuration syntax, reloaded by SIGHUP.

use std::path::Path;
use std::time::{Duration, Instant};

use sendense_tests::command::{Ran, run};
use sendense_tests::daemon::{Daemon, PATIENCE};
use sendense_tests::disk::Disk;
use sendense_tests::{mover, oracle};
use serde_json::json;

fn uri(daemon: &Daemon, name: &str) -> String {
    format!("nbd://{}/{name}", daemon.nbd)
}

fn names(daemon: &Daemon) -> String {
    run("nbdinfo", &["--list", "--json", &uri(daemon, "")]).stdout
}

#[track_caller]
fn until(what: &str, daemon: &Daemon, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(
            Instant::now() < end,
            "{what}: {}\n{}",
            names(daemon),
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A loop device over a file, detached when dropped.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        let ran = run("losetup", &["--find", "--show", file.to_str().unwrap()]).ok();
        Self(ran.stdout.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _: Ran = run("losetup", &["-d", &self.0]);
    }
}

#[test]
fn a_working_nbd_server_configuration_loads_unchanged_and_reloads_by_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).to_str().unwrap().to_owned();
    let disk = Disk::scattered(&dir.path().join("file.raw"), 8 << 20, 50, 1);
    let backing = Disk::scattered(&dir.path().join("loop.raw"), 16 << 20, 50, 2);
    let device = Loop::over(&backing.path);
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    let config = format!(
        "# written for nbd-server\n[generic]\n\tuser = root\n\tgroup = root\n\tallowlist = true\n\
         \tincludedir = {}\n\n[vol1]\n\texportname = {}\n\tflush = true\n\tfua = true\n\
         \n[files]\n\texportname = {}\n\treadonly = true\n",
        path("conf.d"),
        device.0,
        disk.path.display()
    );
    std::fs::write(path("nbd.conf"), config).unwrap();
    let daemon = Daemon::start_with_config(
        &dir.path().join("data"),
        &format!(
            "[nbd]
exports = {:?}
",
            path("nbd.conf")
        ),
    );

    // The block device and the file serve what they hold; writes reach the device.
    let copy = dir.path().join("copy");
    run("nbdcopy", &[&uri(&daemon, "files"), copy.to_str().unwrap()]).ok();
    oracle::same_bytes(&copy, &disk.path);
    oracle::qemu_io(
        &["-f", "raw", &uri(&daemon, "vol1")],
        &["write -P 0x11 1M 64k", "flush"],
    )
    .ok();
    run("blockdev", &["--flushbufs", &device.0]).ok();
    assert!(backing.read(1 << 20, 65536).iter().all(|b| *b == 0x11));

    // A client stays connected throughout.
    let pause = dir.path().join("pause");
    std::fs::write(&pause, "").unwrap();
    let plan = json!({ "connections": 1, "window": 1, "pause": pause, "ops": [] });
    let mut client = mover::spawn(&disk.path, &uri(&daemon, "vol1"), &plan);

    // Added.
    let added = Disk::scattered(&dir.path().join("added.raw"), 4 << 20, 50, 3);
    let include = dir.path().join("conf.d/added.conf");
    std::fs::write(
        &include,
        format!("[added]\nexportname = {}\n", added.path.display()),
    )
    .unwrap();
    daemon.signal("HUP");
    until("the added export appears", &daemon, || {
        names(&daemon).contains("added")
    });
    std::fs::remove_file(&copy).unwrap();
    run("nbdcopy", &[&uri(&daemon, "added"), copy.to_str().unwrap()]).ok();
    oracle::same_bytes(&copy, &added.path);

    // Broken: nothing changes, and the log says which file and line.
    std::fs::write(
        &include,
        "[added]\nexportname = relative\nno such key = 1\n",
    )
    .unwrap();
    daemon.signal("HUP");
    until("the broken file is reported", &daemon, || {
        daemon.log().contains("added.conf")
    });
    assert!(names(&daemon).contains("added"));

    // Changed: read-only from now on.
    std::fs::write(
        &include,
        format!(
            "[added]\nexportname = {}\nreadonly = true\n",
            added.path.display()
        ),
    )
    .unwrap();
    daemon.signal("HUP");
    until("the changed export is read-only", &daemon, || {
        run("nbdinfo", &["--is", "read-only", &uri(&daemon, "added")]).code == 0
    });

    // Removed.
    std::fs::remove_file(&include).unwrap();
    daemon.signal("HUP");
    until("the removed export is gone", &daemon, || {
        !names(&daemon).contains("added")
    });

    std::fs::remove_file(&pause).unwrap();
    assert!(
        client.wait().unwrap().success(),
        "the connected client was never disturbed"
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("nbd.conf");
    std::fs::write(
        &config,
        "[generic]\n[x]\nexportname = /dev/null\ncopyonwrite = true\n",
    )
    .unwrap();
    let toml = dir.path().join("sendensed.toml");
    std::fs::write(&toml, format!("[nbd]\nexports = {config:?}\n")).unwrap();
    let data = dir.path().join("data");
    let args = [
        "--data-dir",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--nbd-listen",
    ];
    let ran = sendense_tests::command::run_ours(
        "sendensed",
        &[
            &args[..],
            &["127.0.0.1:0", "--config", toml.to_str().unwrap()],
        ]
        .concat(),
    );
    assert_ne!(ran.code, 0);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(
        said.contains("copyonwrite") && said.contains(":4"),
        "{said}"
    );
}
