//! The command line `sendense-ctl`: noun, verb, and the objects of the REST interface.
//!
//! Quiet where nobody watches, progress on a terminal; `--json` prints the API's own objects and
//! nothing else on standard output. Errors go to standard error with a hint, and end with the exit
//! codes that PRODUCT names. A secret is never an argument.

mod args;
mod backup;
mod error;
mod examples;
mod interrupt;
mod job;
mod output;
mod progress;
mod push;
mod restore;
mod spec;
mod vm;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sendense_nbd::uri::NbdUri;

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
    #[arg(long, global = true, help_heading = "Global options", env = "SENDENSE_URL", default_value = client::DEFAULT_URL)]
    url: String,
    /// A file that holds the token; else ~/.config/sendense/token, else the default data
    /// directory's admin.token
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "SENDENSE_TOKEN_FILE",
        value_name = "FILE"
    )]
    token_file: Option<PathBuf>,
    /// Certificates for NBD over TLS: a directory with ca-cert.pem, and client-cert.pem and
    /// client-key.pem where the daemon asks for them
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "SENDENSE_TLS_CERTIFICATES",
        value_name = "DIR"
    )]
    tls_certificates: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, help_heading = "Global options", value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The same as --format json
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// No progress, even on a terminal
    #[arg(long, short, global = true, help_heading = "Global options")]
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
    /// Look at the NBD exports that are declared in files
    #[command(subcommand)]
    Exports(args::Exports),
    /// Say how the daemon is
    Health,
}

/// What a command works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    client: Client,
    tls_certificates: Option<PathBuf>,
    json: bool,
    quiet: bool,
}

impl Context {
    fn new(global: &Global) -> Result<Self> {
        let host = global.url.strip_prefix("http://").unwrap_or_default();
        if host.trim_end_matches('/').is_empty() {
            let wrong = format!("{:?} is no address of a daemon", global.url);
            return Err(CliError::new(64, wrong).hint(format!(
                "set SENDENSE_URL to something like {}; beyond this machine use a tunnel",
                client::DEFAULT_URL
            )));
        }
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
            tls_certificates: global.tls_certificates.clone(),
            json: global.json || global.format == Format::Json,
            quiet: global.quiet || global.json || global.format == Format::Json,
        })
    }
}

impl Context {
    /// The URIs with this machine's certificates where they ask for TLS and name none.
    fn nbd_uris(&self, uris: &[String]) -> Vec<String> {
        let with_certificates = |text: &String| match text.parse::<NbdUri>() {
            Ok(uri) if uri.tls && uri.tls_certificates.is_none() => {
                uri.with_tls(self.tls_certificates.clone()).to_string()
            }
            _ => text.clone(),
        };
        uris.iter().map(with_certificates).collect()
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
            let list = context.client.repositories()?;
            output::show(&context, &list, output::repositories)
        }
        Noun::Repo(args::Repo::Quarantine { repository }) => {
            let quarantine = context.client.quarantine(&repository)?;
            output::show(&context, &quarantine, output::quarantine)
        }
        Noun::Repo(args::Repo::Adopt {
            backup_id,
            repository,
        }) => {
            let adopted = context.client.adopt(&repository, &backup_id)?;
            output::show(&context, &adopted, output::backup)
        }
        Noun::Exports(args::Exports::List) => {
            output::show(&context, &context.client.exports()?, output::declared)
        }
        Noun::Exports(args::Exports::Reload) => {
            let reload = context.client.reload_exports()?;
            output::show(&context, &reload, output::reload)
        }
        Noun::Health => {
            let health = context.client.health()?;
            output::show(&context, &health, |h| {
                output::health(context.client.url(), h)
            })
        }
    }
}

#[cfg(test)]
mod tests;
