//! `sendense-image`: looks into QCOW2 and raw files without a daemon.

mod check;
mod cli;
mod compare;
mod convert;
mod disks;
mod extract;
mod files;
mod holes;
mod info;
mod listing;
mod map;
mod open;
mod output;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use output::{Failure, report};

/// Bad usage, as in all our binaries: 2 means "corrupt" here.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let asked = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing can be done where the terminal is gone.
            let _ = e.print();
            return ExitCode::from(if asked { 0 } else { USAGE });
        }
    };
    let (output, differs) = (cli.output, matches!(cli.command, Command::Compare(_)));
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(output, &failure);
            // 1 says "different" there.
            ExitCode::from(if differs { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    match cli.command {
        Command::Info(args) => info::run(cli.output, &args),
        Command::Check(args) => check::run(cli.output, &args),
        Command::Map(args) => map::run(cli.output, &args),
        Command::Compare(args) => compare::run(cli.output, &args),
        Command::Convert(args) => convert::run(cli.output, &args),
        Command::Files(args) => files::run(cli.output, &args),
        Command::Extract(args) => extract::run(cli.output, &args),
    }
}
