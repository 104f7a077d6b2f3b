//! `sendense-bench`: how fast a disk goes in over a unix socket, beside qemu-nbd in the same run.
//!
//! Each server is a process of its own, so that its CPU time is measured the same way for all.
//! Rounds alternate: round 1 of every server, then round 2, each time beginning with another one.
//! A round ends when the data is safe: FLUSH, and for our ingest the whole seal as well.

mod bare;
mod load;
mod machine;
mod null;
mod report;
mod serve;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use report::{Report, Row};
use subject::Subject;

const GIB: f64 = (1u64 << 30) as f64;

/// Pushes a disk into NBD servers over a unix socket and compares them.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server's side of one round; the bench starts it by itself.
    #[command(hide = true)]
    Serve(serve::Serve),
}

/// What to measure.
#[derive(Debug, Clone, Args)]
struct Run {
    /// GiB to send in each round.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=4096))]
    size: u64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// KiB of one WRITE.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(4..=32768))]
    block: u32,
    /// Connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// WRITEs in flight on each connection.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    depth: u16,
    /// Per cent of the blocks that are zero, sent as data.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    zero: u8,
    /// Data threads of our servers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Where the images go; a directory on the disk that is to be measured.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Only these servers.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            // 64 is usage in all our binaries; help and version are none.
            return ExitCode::from(if e.use_stderr() { 64 } else { 0 });
        }
    };
    let done = match cli.command {
        Some(Command::Serve(serve)) => serve.run(),
        None => measure(&cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report::complain(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(run: &Run) -> anyhow::Result<()> {
    let subjects = Subject::chosen(&run.only)?;
    let scratch = tempfile::Builder::new()
        .prefix("sendense-bench-")
        .tempdir_in(&run.dir)?;
    let data = load::Data::new(run.zero)?;
    let mut rows: Vec<Row> = subjects.iter().copied().map(Row::new).collect();
    let count = rows.len();
    for round in 0..usize::from(run.rounds) {
        for turn in 0..count {
            let Some(row) = rows.get_mut((round + turn) % count) else {
                continue;
            };
            if !run.json {
                let all = run.rounds;
                report::complain(&format!(
                    "round {}/{all}: {}",
                    round + 1,
                    row.subject.name()
                ));
            }
            let sample = subject::round(row.subject, run, &data, scratch.path())?;
            row.samples.push(sample);
        }
    }
    Report::new(run, rows).print(run.json)
}
