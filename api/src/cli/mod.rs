//! The command line `sendense-ctl`: noun, verb, and the objects of the REST interface.
//!
//! Quiet where nobody watches, progress on a terminal; `--json` prints the API's own objects and
//! nothing else on standard output. Errors go to standard error with a hint, and end with the exit
//! codes that PRODUCT names. A secret is never an argument.

mod args;
mod backup;
mod error;
mod job;
mod output;
mod progress;
mod push;
mod restore;
mod spec;
mod vm;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use error::CliError;

use crate::client::{self, Client};

/// A result of this module tree.
pub type Result<T> = std::result::Result<T, CliError>;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "sendense-ctl",
    version,
    about = "Backs up and restores virtual machines with a Sendense daemon",
    after_help = "Exit codes: 0 ok, 1 failed, 3 partial, 4 no daemon, 5 not authenticated, 10 not \
                  found, 11 locked, 12 not allowed, 13 immutable, 14 no space, 15 damage found, \
                  16 busy, 64 usage, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    noun: Noun,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The daemon's address
    #[arg(long, global = true, env = "SENDENSE_URL", default_value = client::DEFAULT_URL)]
    url: String,
    /// A file that holds the token; else ~/.config/sendense/token, else the default data
    /// directory's admin.token
    #[arg(long, global = true, env = "SENDENSE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as --format json
    #[arg(long, global = true)]
    json: bool,
    /// No progress, even on a terminal
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// The API's objects.
    Json,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Make, look at, restore and delete backups
    #[command(subcommand)]
    Backup(Box<args::Backup>),
    /// Register and look at machines
    #[command(subcommand)]
    Vm(args::Vm),
    /// Follow what takes time
    #[command(subcommand)]
    Job(args::Job),
    /// Look at repositories
    #[command(subcommand)]
    Repo(args::Repo),
    /// Say how the daemon is
    Health,
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    client: Client,
    json: bool,
    quiet: bool,
}

impl Context {
    fn new(global: &Global) -> Result<Self> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let dir = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let config_home =
            dir("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|h| h.join(".config")));
        let data_dir = client::default_data_dir(
            output::is_root(),
            home.as_deref(),
            dir("XDG_DATA_HOME").as_deref(),
        );
        let token = client::find_token(
            global.token_file.as_deref(),
            config_home.as_deref(),
            &data_dir,
        )
        .map_err(|e| {
            CliError::new(5, format!("the token cannot be read: {e}"))
                .hint("set SENDENSE_TOKEN_FILE to a file that holds a token")
        })?;
        Ok(Self {
            client: Client::new(&global.url, token),
            json: global.json || global.format == Format::Json,
            quiet: global.quiet || global.json || global.format == Format::Json,
        })
    }
}

/// Runs the command line of this process and says what to exit with.
pub fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let usage = e.use_stderr();
            let _ = e.print();
            return if usage { 64 } else { 0 }.into();
        }
    };
    match run(cli) {
        Ok(()) => 0.into(),
        Err(e) => {
            e.print();
            e.code.into()
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let context = Context::new(&cli.global)?;
    match cli.noun {
        Noun::Backup(verb) => backup::run(&context, *verb),
        Noun::Vm(verb) => vm::run(&context, verb),
        Noun::Job(verb) => job::run(&context, verb),
        Noun::Repo(args::Repo::List) => {
            output::repositories(&context, &context.client.repositories()?)
        }
        Noun::Health => output::health(&context, &context.client.health()?),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_promised_lines_parse() {
        for line in [
            "backup start --vm pgtest2 --type full",
            "backup list --vm pgtest2",
            "backup chain --vm pgtest2",
            "backup push --vm web1 --disk 0=./disk.img",
            "backup push --vm web1 --disk 0=./disk.img --type incremental --changes 0=changes.json",
            "backup restore --backup-id ID --disk 0 --to disk.raw",
            "backup export --backup-id ID --disk 0",
            "backup show latest --vm web1",
            "backup delete ID --dry-run --with-dependents --yes",
            "backup cancel ID",
            "backup complete ID --disk 0=token",
            "backup verify ID",
            "vm add web1 --disk 0=10G",
            "vm list --json",
            "job list --format json",
            "job show ID",
            "repo list",
            "health",
        ] {
            let args = std::iter::once("sendense-ctl").chain(line.split(' '));
            Cli::try_parse_from(args).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
