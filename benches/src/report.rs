//! Medians, ratios, and how they are shown.

use std::io::Write;

use crate::machine::Machine;
use crate::subject::{Sample, Subject};
use crate::{GIB, Run};

/// The rounds of one server.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) subject: Subject,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) const fn new(subject: Subject) -> Self {
        Self {
            subject,
            samples: Vec::new(),
        }
    }

    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = values.get(middle).copied().unwrap_or_default();
        let lower = values.get(middle.wrapping_sub(1)).copied();
        match lower {
            Some(lower) if values.len().is_multiple_of(2) => (lower + upper) / 2.0,
            _ => upper,
        }
    }
}

/// One line of the result.
#[derive(Debug, serde::Serialize)]
struct Line {
    server: &'static str,
    gib_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// Against the bare loop of the same run.
    of_bare: Option<f64>,
    /// Against qemu-nbd with clusters of 64 KiB of the same run.
    of_qemu: Option<f64>,
    server_cpu_seconds_per_gib: f64,
    client_cpu_seconds_per_gib: f64,
    seal_seconds: f64,
    stored_gib: f64,
    samples: Vec<Sample>,
}

/// The whole result.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    machine: Machine,
    gib: u64,
    rounds: u16,
    block_kib: u32,
    connections: u16,
    depth: u16,
    zero_percent: u8,
    threads: u16,
    debug_build: bool,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(run: &Run, rows: Vec<Row>) -> Self {
        let gib = ((run.size << 30) as f64) / GIB;
        let rate = |sample: &Sample| gib / sample.seconds.max(f64::EPSILON);
        let of = |subject| {
            let row = rows.iter().find(|row| row.subject == subject);
            row.map(|row| row.median(rate))
        };
        let (bare, qemu) = (of(Subject::Bare), of(Subject::Qemu64k));
        let line = |row: Row| {
            let rates = row.samples.iter().map(rate);
            let median = row.median(rate);
            Line {
                server: row.subject.name(),
                gib_per_second: median,
                slowest: rates.clone().fold(f64::INFINITY, f64::min),
                fastest: rates.fold(0.0, f64::max),
                of_bare: bare.map(|bare| median / bare),
                of_qemu: qemu.map(|qemu| median / qemu),
                server_cpu_seconds_per_gib: row.median(|s| s.server_cpu) / gib,
                client_cpu_seconds_per_gib: row.median(|s| s.client_cpu) / gib,
                seal_seconds: row.median(|s| s.seal_seconds),
                stored_gib: row.median(|s| s.stored as f64) / GIB,
                samples: row.samples,
            }
        };
        Self {
            machine: Machine::look(&run.dir),
            gib: run.size,
            rounds: run.rounds,
            block_kib: run.block,
            connections: run.connections,
            depth: run.depth,
            zero_percent: run.zero,
            threads: run.threads,
            debug_build: cfg!(debug_assertions),
            lines: rows.into_iter().map(line).collect(),
        }
    }

    pub(crate) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
            return Ok(());
        }
        writeln!(out, "{}", self.machine.line())?;
        if self.debug_build {
            writeln!(
                out,
                "A debug build: the figures of our servers mean little."
            )?;
        }
        writeln!(
            out,
            "{} GiB, {} rounds, {} x {} WRITEs of {} KiB in flight, {} % zero, {} data threads",
            self.gib,
            self.rounds,
            self.connections,
            self.depth,
            self.block_kib,
            self.zero_percent,
            self.threads
        )?;
        writeln!(
            out,
            "\n{:<24}{:>8}{:>14}{:>8}{:>8}{:>12}{:>12}{:>8}{:>8}",
            "server",
            "GiB/s",
            "(min..max)",
            "/bare",
            "/qemu",
            "srv s/GiB",
            "cli s/GiB",
            "seal s",
            "GiB"
        )?;
        for line in &self.lines {
            let ratio = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{r:.2}"));
            let range = format!("({:.2}..{:.2})", line.slowest, line.fastest);
            writeln!(
                out,
                "{:<24}{:>8.2}{:>14}{:>8}{:>8}{:>12.3}{:>12.3}{:>8.2}{:>8.2}",
                line.server,
                line.gib_per_second,
                range,
                ratio(line.of_bare),
                ratio(line.of_qemu),
                line.server_cpu_seconds_per_gib,
                line.client_cpu_seconds_per_gib,
                line.seal_seconds,
                line.stored_gib
            )?;
        }
        Ok(())
    }
}

/// A word to the person who waits; never part of the result.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
