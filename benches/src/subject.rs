//! The servers that are compared, and one round with one of them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use crate::load::{self, Data};
use crate::{Run, machine};

/// A server that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Ours, and the data is forgotten: the socket and the protocol alone.
    Null,
    /// A bare loop: receive, write to a flat file that was allocated before.
    Bare,
    /// Ours, into a sealed QCOW2 with checksums.
    Ingest,
    /// qemu-nbd into QCOW2 with clusters of 64 KiB.
    Qemu64k,
    /// qemu-nbd into QCOW2 with clusters of 2 MiB.
    Qemu2m,
}

/// What one round gave.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Sample {
    /// From the first WRITE until all is safe.
    pub(crate) seconds: f64,
    /// Of these, after the last reply and FLUSH: the seal.
    pub(crate) seal_seconds: f64,
    /// CPU seconds of the server, kernel's part included.
    pub(crate) server_cpu: f64,
    /// CPU seconds of the client.
    pub(crate) client_cpu: f64,
    /// Bytes of disk that the image takes.
    pub(crate) stored: u64,
}

impl Subject {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "sendense, no storage",
            Self::Bare => "bare loop, flat file",
            Self::Ingest => "sendense, sealed qcow2",
            Self::Qemu64k => "qemu-nbd, qcow2 64K",
            Self::Qemu2m => "qemu-nbd, qcow2 2M",
        }
    }

    /// Those that were asked for; else all that this machine can run.
    pub(crate) fn chosen(only: &[Self]) -> anyhow::Result<Vec<Self>> {
        let qemu = |s: &Self| matches!(s, Self::Qemu64k | Self::Qemu2m);
        let installed = ["qemu-nbd", "qemu-img"].iter().all(|tool| {
            let mut version = Command::new(tool);
            let version = version.arg("--version").stdout(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        });
        if !only.is_empty() {
            ensure!(
                installed || !only.iter().any(qemu),
                "qemu-nbd and qemu-img are not installed"
            );
            return Ok(only.to_vec());
        }
        let all = Self::value_variants().iter();
        Ok(all.filter(|s| installed || !qemu(s)).copied().collect())
    }
}

/// A server's process; ended when dropped.
struct Server {
    child: Child,
    says: Option<BufReader<ChildStdout>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One round: a fresh server with a fresh image, the push, the seal.
pub(crate) fn round(
    subject: Subject,
    run: &Run,
    data: &Data,
    dir: &Path,
) -> anyhow::Result<Sample> {
    let (image, socket) = (dir.join("image"), dir.join("sock"));
    let mut server = match subject {
        Subject::Null => ours("null", run, &image, &socket)?,
        Subject::Bare => ours("bare", run, &image, &socket)?,
        Subject::Ingest => ours("ingest", run, &image, &socket)?,
        Subject::Qemu64k => qemu("64k", run, &image, &socket)?,
        Subject::Qemu2m => qemu("2M", run, &image, &socket)?,
    };
    let server_before = machine::cpu_seconds(&server.child.id().to_string())?;
    let client_before = machine::cpu_seconds("self")?;
    let pushed = load::push(run, data, &socket).with_context(|| subject.name())?;
    let sealing = Instant::now();
    server.seal()?;
    let seal_seconds = sealing.elapsed().as_secs_f64();
    let sample = Sample {
        seconds: pushed + seal_seconds,
        seal_seconds,
        server_cpu: machine::cpu_seconds(&server.child.id().to_string())? - server_before,
        client_cpu: machine::cpu_seconds("self")? - client_before,
        stored: machine::stored_bytes(&image),
    };
    drop(server);
    if subject == Subject::Ingest {
        check(&image)?;
    }
    for leftover in [image, socket] {
        match std::fs::remove_file(&leftover) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(sample)
}

/// A fast wrong image would be no figure at all. Left out where there is no qemu-img.
fn check(image: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("qemu-img");
    match command
        .args(["check", "-q", "-f", "qcow2"])
        .arg(image)
        .status()
    {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
        Ok(status) => {
            ensure!(
                status.success(),
                "qemu-img check finds the sealed image damaged"
            );
            Ok(())
        }
    }
}

impl Server {
    /// Tells one of ours to seal, and waits for it.
    fn seal(&mut self) -> anyhow::Result<()> {
        let Some(says) = &mut self.says else {
            return Ok(());
        };
        let input = self.child.stdin.as_mut().context("the server's input")?;
        input.write_all(b"seal\n")?;
        input.flush()?;
        expect(says, "sealed")
    }
}

fn expect(says: &mut BufReader<ChildStdout>, word: &str) -> anyhow::Result<()> {
    let mut line = String::new();
    says.read_line(&mut line)?;
    ensure!(line.trim() == word, "the server failed, see above");
    Ok(())
}

fn ours(kind: &str, run: &Run, image: &Path, socket: &Path) -> anyhow::Result<Server> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["serve", kind, "--size", &(run.size << 30).to_string()])
        .args(["--threads", &run.threads.to_string()])
        .arg("--image")
        .arg(image)
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("the server's output")?;
    let mut server = Server { child, says: None };
    let mut says = BufReader::new(output);
    expect(&mut says, "ready")?;
    server.says = Some(says);
    Ok(server)
}

fn qemu(cluster: &str, run: &Run, image: &Path, socket: &Path) -> anyhow::Result<Server> {
    let options = format!("cluster_size={cluster}");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", &options])
        .arg(image)
        .arg(format!("{}G", run.size))
        .status()?;
    ensure!(made.success(), "qemu-img create failed");
    // It wants an absolute path.
    let socket: PathBuf = std::path::absolute(socket)?;
    let mut command = Command::new("qemu-nbd");
    command
        .args([
            "-t",
            "-f",
            "qcow2",
            "--cache=none",
            "--aio=io_uring",
            "-x",
            "bench",
        ])
        .args(["-e", &run.connections.to_string(), "-k"])
        .arg(&socket);
    if run.zero > 0 {
        // Else it would store the zeroes that we do not.
        command.args(["--discard=unmap", "--detect-zeroes=unmap"]);
    }
    let child = command.arg(image).spawn()?;
    let mut server = Server { child, says: None };
    let began = Instant::now();
    // Looked at, not connected to: it would count as one of its clients.
    while !socket.exists() {
        if let Some(status) = server.child.try_wait()? {
            bail!("qemu-nbd ended at its start: {status}");
        }
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "qemu-nbd does not listen"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}
