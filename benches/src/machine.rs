//! What the kernel tells: CPU time of a process, blocks of a file, and on what machine this is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

/// The kernel's unit of CPU time in /proc, on every Linux that we run on.
const TICKS: f64 = 100.0;

/// CPU seconds of a process so far, all its threads and its part in the kernel together.
pub(crate) fn cpu_seconds(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields after it are counted from the third.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u32>)
        .sum::<Result<_, _>>()?;
    Ok(f64::from(ticks) / TICKS)
}

/// Bytes that a file takes on its disk; 0 where there is none.
pub(crate) fn stored_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// The machine, for the report.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gib: u64,
    kernel: String,
    file_system: String,
    qemu: Option<String>,
}

impl Machine {
    pub(crate) fn look(dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        let qemu = std::process::Command::new("qemu-nbd")
            .arg("--version")
            .output();
        let qemu = qemu.ok().and_then(|out| {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            text.lines().next().map(str::to_owned)
        });
        Self {
            cpu: value(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.unwrap_or_default() >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(dir),
            qemu,
        }
    }

    pub(crate) fn line(&self) -> String {
        let Self {
            cpu,
            cores,
            memory_gib,
            kernel,
            file_system,
            ..
        } = self;
        format!("{cpu}, {cores} cores, {memory_gib} GiB, Linux {kernel}, {file_system}")
    }
}

/// The type of the file system that holds a directory: that of the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    mounts
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}
