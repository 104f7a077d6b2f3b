//! The Sendense daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sendense_api::client::default_data_dir;
use sendense_api::config::{Config, File, Flags};
use sendense_api::daemon::{self, Daemon};
use sendense_api::pki;
use sendense_api::quickstart::{self, Quickstart};
use sendense_engine::sys::activation::{Inherited, take_over};

/// Backs up virtual machines over NBD into QCOW2 chains.
#[derive(Debug, Parser)]
#[command(name = "sendensed", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Args)]
struct Run {
    /// Where everything is kept; /var/lib/sendense as root, else under the user's data home
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where HTTP listens; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where NBD listens; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    nbd_listen: Option<String>,
    /// A configuration file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Allow listeners without TLS on addresses that others can reach
    #[arg(long)]
    insecure_listen: bool,
    /// Write the log as JSON
    #[arg(long)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the whole of it on a disk, in a fresh directory: full, incremental, restore, compare
    Quickstart {
        /// A raw disk image or block device, which is only read; one is made where it is left out
        disk: Option<PathBuf>,
        /// Where everything goes; a fresh temporary directory where it is left out
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Certificates for NBD over TLS
    #[command(subcommand)]
    Tls(Tls),
}

#[derive(Debug, Subcommand)]
enum Tls {
    /// Make a CA, a server certificate and a client certificate
    Init {
        /// Where to
        dir: PathBuf,
        /// A name or address of the server; localhost and its addresses where none is given
        #[arg(long = "san", value_name = "NAME")]
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let usage = e.use_stderr();
            let _ = e.print();
            return if usage { 64 } else { 0 }.into();
        }
    };
    let done = match cli.verb {
        None => run(cli.run),
        Some(Verb::Quickstart { disk, dir }) => show(Quickstart { disk, dir }),
        Some(Verb::Tls(Tls::Init { dir, names })) => tls_init(&dir, names),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            daemon::say_error(&format!("error: {e:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Run) -> anyhow::Result<()> {
    let filter = std::env::var("SENDENSE_LOG").ok();
    daemon::init_log(filter.as_deref(), args.log_json);
    let file = match &args.config {
        Some(path) => File::read(path)?,
        None => File::default(),
    };
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let data_dir = default_data_dir(
        rustix::process::geteuid().is_root(),
        path("HOME").as_deref(),
        path("XDG_DATA_HOME").as_deref(),
    );
    let flags = Flags {
        data_dir: args.data_dir,
        listen: args.listen,
        nbd_listen: args.nbd_listen,
        insecure_listen: args.insecure_listen,
    };
    let config = Config::new(file, flags, data_dir)?;
    let sockets = handed_over()?;
    runtime()?.block_on(async {
        let daemon = Daemon::start_with(config, sockets).await?;
        daemon::say_ready(&daemon);
        daemon::run_until_stopped(daemon).await
    })
}

/// Socket activation, as systemd and libnbd's tools do it.
fn handed_over() -> anyhow::Result<Vec<(String, Inherited)>> {
    let value = |name: &str| std::env::var(name).ok();
    let sockets = sendense_nbd::activation::handed_over(
        value("LISTEN_PID").as_deref(),
        value("LISTEN_FDS").as_deref(),
        value("LISTEN_FDNAMES").as_deref(),
        std::process::id(),
    )?;
    Ok(take_over(&sockets)?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
}

fn show(what: Quickstart) -> anyhow::Result<()> {
    // What happens is printed; the log is for what goes wrong.
    daemon::init_log(Some("warn"), false);
    runtime()?.block_on(quickstart::run(what))
}

fn tls_init(dir: &std::path::Path, mut names: Vec<String>) -> anyhow::Result<()> {
    if names.is_empty() {
        names = ["localhost", "127.0.0.1", "::1"]
            .map(str::to_owned)
            .to_vec();
    }
    for path in pki::init(dir, &names)? {
        daemon::say(&path.display().to_string());
    }
    daemon::say(&format!(
        "next: set nbd.tls_dir = \"{}\" in the daemon's configuration, give movers ca-cert.pem \
         (and the client's pair where nbd.tls_verify_peer is on), and keep ca-key.pem elsewhere",
        dir.display()
    ));
    Ok(())
}
