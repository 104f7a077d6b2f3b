//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::examples;
use super::spec::{DiskPath, DiskSize, DiskSpec, DiskText};
use crate::types::{BackupType, ImageFormat};

/// `sendense-ctl backup ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Backup {
    /// Open a backup and print where a mover writes to
    Start(Start),
    /// Send disk images from this machine: start, send, complete
    Push(Push),
    /// List restore points, newest first
    List(List),
    /// Show one backup
    Show(Which),
    /// Show the chains of a machine
    Chain {
        /// The machine, by name or id
        #[arg(long)]
        vm: String,
    },
    /// Seal a backup whose disks have been sent
    Complete(Complete),
    /// End a backup without a restore point
    Cancel(Which),
    /// Delete a restore point
    Delete(Delete),
    /// Write a disk of a restore point to a file
    Restore(Restore),
    /// Open a restore point as a read-only NBD export
    Export(Export),
    /// List the open restore exports
    Exports,
    /// Close a restore export
    Unexport {
        /// The export's id
        export_id: String,
    },
    /// Compare a restore point with its checksums
    Verify(Verify),
}

/// Which backup.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The backup: its id, a unique beginning of it, or `latest`
    #[arg(value_name = "BACKUP", required_unless_present = "backup_id")]
    backup: Option<String>,
    /// The same as an option
    #[arg(long, value_name = "BACKUP", conflicts_with = "backup")]
    backup_id: Option<String>,
    /// Whose `latest` is meant
    #[arg(long)]
    pub(super) vm: Option<String>,
}

impl Which {
    pub(super) fn id(&self) -> &str {
        self.backup_id
            .as_deref()
            .or(self.backup.as_deref())
            .unwrap_or_default()
    }
}

#[derive(Debug, Args)]
#[command(after_help = examples::START)]
pub(super) struct Start {
    /// The machine, by name or id
    #[arg(long)]
    pub(super) vm: String,
    /// full, incremental or differential
    #[arg(long = "type", default_value = "full")]
    pub(super) kind: BackupType,
    /// Where it goes
    #[arg(long)]
    pub(super) repository: Option<String>,
    /// Make a full where the wanted type is not possible
    #[arg(long)]
    pub(super) allow_full: bool,
    /// The cluster size of the images: 64K to 2M, a power of two
    #[arg(long, value_name = "SIZE", value_parser = super::spec::size)]
    pub(super) cluster_size: Option<u64>,
    /// A disk: N[,size=BYTES][,device-key=KEY][,source=SOURCE][,format=raw][,base=TOKEN]
    /// [,change-id=TOKEN][,sparse]; all registered disks where none is given
    #[arg(long = "disk", value_name = "SPEC")]
    pub(super) disks: Vec<DiskSpec>,
    /// The changed extents of a disk, as JSON: N=FILE
    #[arg(long, value_name = "N=FILE")]
    pub(super) changes: Vec<DiskPath>,
    /// Exit with 3 where a full is made of any disk, a new one too, though something else was asked
    #[arg(long)]
    pub(super) fail_on_full: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::PUSH)]
pub(super) struct Push {
    /// The machine, by name or id
    #[arg(long)]
    pub(super) vm: String,
    /// A disk and the raw image or block device that holds it: N=FILE
    #[arg(long = "disk", value_name = "N=FILE", required = true)]
    pub(super) disks: Vec<DiskPath>,
    /// full, incremental or differential
    #[arg(long = "type", default_value = "full")]
    pub(super) kind: BackupType,
    /// The changed extents of a disk, as JSON: N=FILE
    #[arg(long, value_name = "N=FILE")]
    pub(super) changes: Vec<DiskPath>,
    /// What the changes are relative to: N=TOKEN. May be left out where the daemon made the token
    /// of the point that this one builds on
    #[arg(
        long = "base-change-id",
        visible_alias = "base",
        value_name = "N=TOKEN"
    )]
    pub(super) base: Vec<DiskText>,
    /// What the point becomes: N=TOKEN
    #[arg(long, value_name = "N=TOKEN")]
    pub(super) change_id: Vec<DiskText>,
    /// The identity of a disk: N=KEY
    #[arg(long, value_name = "N=KEY")]
    pub(super) device_key: Vec<DiskText>,
    /// Where it goes
    #[arg(long)]
    pub(super) repository: Option<String>,
    /// Send a full where the wanted type is not possible
    #[arg(long)]
    pub(super) allow_full: bool,
    /// The cluster size of the images: 64K to 2M, a power of two
    #[arg(long, value_name = "SIZE", value_parser = super::spec::size)]
    pub(super) cluster_size: Option<u64>,
    /// Exit with 3 where a full was made of any disk, a new one too, though something else was asked
    #[arg(long)]
    pub(super) fail_on_full: bool,
    /// Connections per disk
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) connections: u8,
}

#[derive(Debug, Args)]
#[command(after_help = examples::LIST)]
pub(super) struct List {
    /// One machine, by name or id
    #[arg(long)]
    pub(super) vm: Option<String>,
    /// pending, running, completed, failed, cancelled or all; sealed points where it is left out
    #[arg(long)]
    pub(super) status: Option<String>,
    /// One repository
    #[arg(long)]
    pub(super) repository: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = examples::COMPLETE)]
pub(super) struct Complete {
    #[command(flatten)]
    pub(super) which: Which,
    /// A disk, and the change token that it becomes: N or N=TOKEN; all disks where none is given
    #[arg(long = "disk", value_name = "N[=TOKEN]")]
    pub(super) disks: Vec<String>,
    /// Wait for the seal; it is what happens anyway
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait for the seal
    #[arg(long, overrides_with = "wait")]
    pub(super) no_wait: bool,
}

#[derive(Debug, Args)]
#[command(after_help = examples::DELETE)]
pub(super) struct Delete {
    #[command(flatten)]
    pub(super) which: Which,
    /// Delete what builds on it, too
    #[arg(long)]
    pub(super) with_dependents: bool,
    /// Only say what would be deleted
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["to", "target"]))]
#[command(after_help = examples::RESTORE)]
pub(super) struct Restore {
    #[command(flatten)]
    pub(super) which: Which,
    /// The disk
    #[arg(long)]
    pub(super) disk: u32,
    /// A file or block device on this machine
    #[arg(long, value_name = "FILE")]
    pub(super) to: Option<PathBuf>,
    /// A place on the daemon's side that its configuration allows: file:PATH or an NBD URI
    #[arg(long)]
    pub(super) target: Option<String>,
    /// raw or qcow2, with --target
    #[arg(long = "as", value_parser = image_format, conflicts_with = "to")]
    pub(super) image_format: Option<ImageFormat>,
    /// Write over what is there: an existing file, or a block device
    #[arg(long, visible_alias = "force")]
    pub(super) overwrite: bool,
    /// Do not ask before writing over something, even on a terminal
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Only say what would be written
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Connections
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) connections: u8,
}

fn image_format(text: &str) -> Result<ImageFormat, String> {
    match text {
        "raw" => Ok(ImageFormat::Raw),
        "qcow2" => Ok(ImageFormat::Qcow2),
        _ => Err("raw or qcow2".to_owned()),
    }
}

#[derive(Debug, Args)]
#[command(after_help = examples::EXPORT)]
pub(super) struct Export {
    #[command(flatten)]
    pub(super) which: Which,
    /// The disk
    #[arg(long, default_value_t = 0)]
    pub(super) disk: u32,
    /// Seconds that it lives without a client
    #[arg(long)]
    pub(super) ttl: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_help = examples::VERIFY)]
pub(super) struct Verify {
    #[command(flatten)]
    pub(super) which: Which,
    /// Do not wait for the end
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// `sendense-ctl vm ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Vm {
    /// List the machines
    List,
    /// Show one machine
    Show {
        /// Its name or id
        vm: String,
    },
    /// Register a machine
    Add {
        /// Its name
        name: String,
        /// Its UUID; one is made up where it is left out
        #[arg(long)]
        uuid: Option<String>,
        /// A disk: N=SIZE[,KEY[,SOURCE]], SIZE in bytes or with K, M, G, T
        #[arg(long = "disk", value_name = "N=SIZE")]
        disks: Vec<DiskSize>,
    },
}

/// `sendense-ctl job ...`.
#[derive(Debug, Subcommand)]
pub(super) enum Job {
    /// List the jobs, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one job
    Show {
        /// Its id
        job_id: String,
    },
    /// Follow one job to its end
    Watch {
        /// Its id
        job_id: String,
    },
    /// End one job
    Cancel {
        /// Its id
        job_id: String,
    },
}

/// `sendense-ctl exports ...`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum Exports {
    /// List the declared exports
    List,
    /// Read exports and certificates again and apply what changed; a bad file changes nothing
    Reload,
}

/// `sendense-ctl repo ...`.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Repo {
    /// List the repositories
    List,
    /// List what recovery has put aside: finished images that no restore point names
    Quarantine {
        /// The repository
        #[arg(long, default_value = "local")]
        repository: String,
    },
    /// Make a restore point again of a backup in quarantine, where it is provably exact
    Adopt {
        /// The backup's id
        backup_id: String,
        /// The repository
        #[arg(long, default_value = "local")]
        repository: String,
    },
}
