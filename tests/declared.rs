//! Show 9: exports declared in nbd-server's own configuration syntax, reloaded by SIGHUP.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sendense_tests::command::{Ran, run, run_ours};
use sendense_tests::daemon::{Daemon, PATIENCE};
use sendense_tests::disk::Disk;
use sendense_tests::oracle;
use serde_json::json;

fn uri(daemon: &Daemon, name: &str) -> String {
    format!("nbd://{}/{name}", daemon.nbd)
}

fn names(daemon: &Daemon) -> String {
    run("nbdinfo", &["--list", "--json", &uri(daemon, "")]).stdout
}

/// The names that LIST shows.
fn listed(daemon: &Daemon) -> Vec<String> {
    let list = run("nbdinfo", &["--list", "--json", &uri(daemon, "")]).json();
    let exports = list["exports"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = exports
        .iter()
        .map(|e| e["export-name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn size(daemon: &Daemon, name: &str) -> String {
    let ran = run("nbdinfo", &["--size", &uri(daemon, name)]).ok();
    ran.stdout.trim().to_owned()
}

/// SIGHUP; what the daemon said about it once it is through.
#[track_caller]
fn hangup(daemon: &Daemon) -> String {
    let before = daemon.log().len();
    daemon.signal("HUP");
    let end = Instant::now() + PATIENCE;
    loop {
        let said = daemon.log().split_off(before);
        if let Some(at) = said.find("SIGHUP: ")
            && (said.contains("are as they were") || said[at..].lines().count() > 1)
        {
            // Its last lines may still be on their way.
            std::thread::sleep(Duration::from_millis(50));
            return daemon.log().split_off(before);
        }
        assert!(Instant::now() < end, "SIGHUP is not answered: {said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// libnbd as a client that writes and reads back until it is told to stop.
const BUSY: &str = r#"
import nbd, os, sys
uri, at, stop, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(uri)
n = 0
while not os.path.exists(stop):
    n += 1
    data = bytes([n % 255 + 1]) * 65536
    h.pwrite(data, at)
    h.flush()
    assert h.pread(65536, at) == data
    with open(count + ".tmp", "w") as f:
        f.write(str(n))
    os.rename(count + ".tmp", count)
h.shutdown()
"#;

/// A client that is connected and at work.
struct Busy {
    child: Child,
    stop: PathBuf,
    count: PathBuf,
}

impl Busy {
    #[track_caller]
    fn start(dir: &Path, name: &str, uri: &str, at: u64) -> Self {
        let (stop, count) = (
            dir.join(format!("{name}.stop")),
            dir.join(format!("{name}.n")),
        );
        let child = Command::new("/usr/bin/python3")
            .args(["-c", BUSY, uri, &at.to_string()])
            .args([&stop, &count])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut busy = Self { child, stop, count };
        busy.goes_on();
        busy
    }

    fn count(&self) -> u64 {
        let text = std::fs::read_to_string(&self.count).unwrap_or_default();
        text.parse().unwrap_or(0)
    }

    /// It gets answers to requests that it sends from now on.
    #[track_caller]
    fn goes_on(&mut self) {
        let (before, end) = (self.count(), Instant::now() + PATIENCE);
        while self.count() < before + 3 {
            assert_eq!(
                self.child.try_wait().unwrap(),
                None,
                "the client was cut off"
            );
            assert!(Instant::now() < end, "the client gets no answers");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it; it never saw an error.
    #[track_caller]
    fn end(mut self) {
        self.goes_on();
        std::fs::write(&self.stop, "").unwrap();
        let stderr = self.child.stderr.take().unwrap();
        assert!(
            self.child.wait().unwrap().success(),
            "{}",
            std::io::read_to_string(stderr).unwrap()
        );
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon with `nbd.conf` in `dir`, which includes `conf.d`, and more configuration.
#[track_caller]
fn daemon(dir: &Path, sections: &str, more: &str) -> Daemon {
    let include = dir.join("conf.d");
    std::fs::create_dir_all(&include).unwrap();
    let conf = dir.join("nbd.conf");
    let text = format!(
        "# written for nbd-server\n[generic]\n\tuser = root\n\tgroup = root\n\
         \tallowlist = true\n\tincludedir = {}\n{sections}",
        include.display()
    );
    std::fs::write(&conf, text).unwrap();
    let config = format!("[nbd]\nexports = {conf:?}\n{more}");
    Daemon::start_with_config(&dir.join("data"), &config)
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
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let disk = Disk::scattered(&dir.join("file.raw"), 8 << 20, 50, 1);
    let backing = Disk::scattered(&dir.join("loop.raw"), 16 << 20, 50, 2);
    let device = Loop::over(&backing.path);
    let sections = format!(
        "\n[vol1]\n\texportname = {}\n\tflush = true\n\tfua = true\n\
         \n[files]\n\texportname = {}\n\treadonly = true\n\tfilesize = 0\n",
        device.0,
        disk.path.display()
    );
    let daemon = daemon(dir, &sections, "");

    // The block device and the file serve what they hold; writes reach the device.
    let copy = dir.join("copy");
    let same = |name: &str, disk: &Disk| {
        run("nbdcopy", &[&uri(&daemon, name), copy.to_str().unwrap()]).ok();
        oracle::same_bytes(&copy, &disk.path);
        std::fs::remove_file(&copy).unwrap();
    };
    same("files", &disk);
    oracle::qemu_io(
        &["-f", "raw", &uri(&daemon, "vol1")],
        &["write -P 0x11 1M 64k", "flush"],
    )
    .ok();
    run("blockdev", &["--flushbufs", &device.0]).ok();
    assert!(backing.read(1 << 20, 65536).iter().all(|b| *b == 0x11));

    // A client is connected and at work throughout.
    let mut client = Busy::start(dir, "client", &uri(&daemon, "vol1"), 2 << 20);

    // Added.
    let added = Disk::scattered(&dir.join("added.raw"), 4 << 20, 50, 3);
    let other = Disk::scattered(&dir.join("other.raw"), 2 << 20, 50, 4);
    let include = dir.join("conf.d/added.conf");
    let second = dir.join("conf.d/second.conf");
    let export = |name: &str, disk: &Disk, more: &str| {
        format!("[{name}]\nexportname = {}\n{more}\n", disk.path.display())
    };
    std::fs::write(&include, export("added", &added, "")).unwrap();
    std::fs::write(&second, export("second", &other, "")).unwrap();
    hangup(&daemon);
    assert_eq!(listed(&daemon), ["added", "files", "second", "vol1"]);
    same("added", &added);
    client.goes_on();

    // Broken, in its words or in what they mean: nothing changes, though another file is gone;
    // the log says which file and line, and why.
    std::fs::remove_file(&second).unwrap();
    let image = dir.join("image.qcow2");
    run(
        "qemu-img",
        &["create", "-f", "qcow2", image.to_str().unwrap(), "1M"],
    )
    .ok();
    let image = Disk::open(&image);
    let missing = "[added]\nexportname = /nowhere/at/all\n".to_owned();
    for (text, why) in [
        (
            "[added]\nexportname = relative\nno such key = 1\n".to_owned(),
            "added.conf:2",
        ),
        ("[added\n".to_owned(), "added.conf:1"),
        (
            export("added", &added, "filesize = 9999999"),
            "less than its filesize",
        ),
        (export("added", &added, "format = qcow2"), "read-only"),
        (
            export("added", &added, "format = qcow2\nreadonly = true"),
            "added.raw",
        ),
        (export("added", &image, ""), "begins like a QCOW2 image"),
        (missing, "/nowhere/at/all"),
        (export("vol1", &added, ""), "declared already"),
    ] {
        std::fs::write(&include, text).unwrap();
        let said = hangup(&daemon);
        assert!(
            said.contains(why) && said.contains("added.conf"),
            "{why}: {said}"
        );
        assert_eq!(
            listed(&daemon),
            ["added", "files", "second", "vol1"],
            "{why}"
        );
        assert_eq!(size(&daemon, "added"), (4 << 20).to_string(), "{why}");
        client.goes_on();
    }
    same("added", &added);

    // Changed: smaller and read-only from now on, and not locked against other readers any more.
    std::fs::write(
        &include,
        export("added", &added, "readonly = true\nfilesize = 1048576"),
    )
    .unwrap();
    hangup(&daemon);
    assert_eq!(listed(&daemon), ["added", "files", "vol1"]);
    assert_eq!(size(&daemon, "added"), "1048576");
    run("nbdinfo", &["--is", "read-only", &uri(&daemon, "added")]).ok();
    run(
        "qemu-img",
        &["info", "-f", "raw", added.path.to_str().unwrap()],
    )
    .ok();
    client.goes_on();

    // A change of what the client uses is refused for that one alone.
    std::fs::write(&include, export("added", &other, "")).unwrap();
    let main = std::fs::read_to_string(dir.join("nbd.conf")).unwrap();
    let changed = main.replace("fua = true", "fua = true\n\tsync = true");
    std::fs::write(dir.join("nbd.conf"), changed).unwrap();
    let said = hangup(&daemon);
    assert!(
        said.contains("vol1: its settings were changed, but"),
        "{said}"
    );
    same("added", &other);
    client.goes_on();
    std::fs::write(dir.join("nbd.conf"), main).unwrap();

    // Removed, in one reload with another that comes.
    std::fs::remove_file(&include).unwrap();
    std::fs::write(&second, export("second", &added, "")).unwrap();
    hangup(&daemon);
    assert_eq!(listed(&daemon), ["files", "second", "vol1"]);
    client.end();
}

#[test]
fn an_export_that_still_drains_keeps_its_clients_and_holds_nothing_else_back() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let a = Disk::scattered(&dir.join("a.raw"), 4 << 20, 50, 1);
    let b = Disk::scattered(&dir.join("b.raw"), 4 << 20, 50, 2);
    let daemon = daemon(dir, "", "");
    let file = dir.join("conf.d/x.conf");
    let export =
        |name: &str, disk: &Disk| format!("[{name}]\nexportname = {}\n", disk.path.display());
    std::fs::write(&file, export("a", &a)).unwrap();
    hangup(&daemon);
    let mut client = Busy::start(dir, "client", &uri(&daemon, "a"), 0);

    std::fs::write(&file, "").unwrap();
    hangup(&daemon);
    assert!(listed(&daemon).is_empty());
    client.goes_on();

    // It comes back too early, together with another one: that one appears.
    std::fs::write(&file, export("a", &a) + &export("b", &b)).unwrap();
    let said = hangup(&daemon);
    assert!(said.contains("still draining 1 connections"), "{said}");
    assert_eq!(listed(&daemon), ["b"]);
    client.end();
    until("the last client of a is gone", &daemon, || {
        hangup(&daemon);
        listed(&daemon) == ["a", "b"]
    });
}

#[test]
fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let disk = Disk::scattered(&dir.join("disk.raw"), 4 << 20, 50, 1);
    for pki in ["pki", "new"] {
        run_ours(
            "sendensed",
            &["tls", "init", dir.join(pki).to_str().unwrap()],
        )
        .ok();
    }
    // What clients trust: the authority of before, that of after.
    let pki = dir.join("pki");
    let copy = |from: &Path, to: &Path, names: &[&str]| {
        std::fs::create_dir_all(to).unwrap();
        for name in names {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    };
    let client = ["ca-cert.pem", "client-cert.pem", "client-key.pem"];
    let server = ["ca-cert.pem", "server-cert.pem", "server-key.pem"];
    copy(&pki, &dir.join("trusts-old"), &client);
    copy(&dir.join("new"), &dir.join("trusts-new"), &client);
    let sections = format!("[disk]\nexportname = {}\n", disk.path.display());
    let daemon = daemon(dir, &sections, &format!("tls_dir = {pki:?}\n"));
    let port = daemon.nbd.rsplit(':').next().unwrap();
    let secure = |trusts: &str| {
        let certificates = dir.join(trusts);
        format!(
            "nbds://localhost:{port}/disk?tls-certificates={}",
            certificates.display()
        )
    };
    let admits = |trusts: &str| run("nbdinfo", &[&secure(trusts)]).code == 0;
    assert!(admits("trusts-old") && !admits("trusts-new"));
    let mut busy = Busy::start(dir, "client", &secure("trusts-old"), 0);

    // Certificates that cannot be used change nothing, exports included, and say why.
    let later = dir.join("conf.d/later.conf");
    let other = Disk::scattered(&dir.join("other.raw"), 1 << 20, 50, 2);
    let export = format!("[later]\nexportname = {}\n", other.path.display());
    std::fs::write(&later, &export).unwrap();
    let refused = |why: &str| {
        let answer = daemon.post("/exports/reload", &json!({}));
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(
            answer.body["problems"].to_string().contains(why),
            "{}",
            answer.body
        );
        let list = daemon.get("/exports").expect(200);
        assert!(!list.to_string().contains("later"), "{list}");
        assert!(admits("trusts-old") && !admits("trusts-new"));
    };
    std::fs::write(pki.join("server-cert.pem"), "no certificate").unwrap();
    refused("server-cert.pem");
    let said = hangup(&daemon);
    assert!(said.contains("server-cert.pem"), "{said}");
    copy(&dir.join("new"), &pki, &["server-cert.pem"]);
    refused("the key must belong to the certificate");
    // Good certificates beside a bad file of exports wait for it.
    copy(&dir.join("new"), &pki, &server);
    std::fs::write(&later, "[later]\nexportname = /nowhere\n").unwrap();
    refused("/nowhere");
    busy.goes_on();

    std::fs::write(&later, &export).unwrap();
    let said = hangup(&daemon);
    assert!(said.contains("certificates=true"), "{said}");
    assert!(admits("trusts-new") && !admits("trusts-old"));
    assert!(
        daemon
            .get("/exports")
            .expect(200)
            .to_string()
            .contains("later")
    );
    busy.end();
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
