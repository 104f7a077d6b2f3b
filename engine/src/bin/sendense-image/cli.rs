//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks into QCOW2 and raw disk images: what they are, whether they are sound, where their bytes
/// lie, whether two hold the same disk; and converts them. Needs no daemon.
#[derive(Debug, Parser)]
#[command(name = "sendense-image", version)]
pub(crate) struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Human)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Human,
    /// One JSON document.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell what an image is.
    Info(InfoArgs),
    /// Check an image: 0 sound, 2 corrupt, 3 leaked clusters only, 63 a raw file, which has no checks.
    Check(CheckArgs),
    /// Tell where each byte of the disk lies.
    Map(MapArgs),
    /// Compare two disks: 0 same, 1 different, 2 not comparable.
    Compare(CompareArgs),
    /// Write a disk into a new file of another format; a chain becomes one file.
    ///
    /// A QCOW2 image holds whole sectors of 512 bytes: a raw disk that ends inside of one is rounded
    /// up with zeroes, and stays so when it is converted back.
    Convert(ConvertArgs),
    /// List the volumes on disks, or the files on one of them: 3 where some cannot be shown.
    Files(FilesArgs),
    /// Extract files from disks: 0 all, 3 not all.
    Extract(ExtractArgs),
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The disk as it is.
    Raw,
    /// QEMU's image format.
    Qcow2,
}

/// How an image and what stands behind it are opened.
#[derive(Debug, Clone, Args)]
pub(crate) struct OpenArgs {
    /// The format of FILE. Not given: QCOW2 where the file begins with its magic, else raw.
    #[arg(short = 'f', long = "format", value_enum)]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) chain: ChainArgs,
}

/// Which backing files are followed, and whether others may write meanwhile.
#[derive(Debug, Clone, Args)]
pub(crate) struct ChainArgs {
    /// Whether the backing file that an image names is followed.
    #[arg(long, value_enum, default_value_t = Backing::Beneath)]
    pub(crate) backing: Backing,
    /// Follow backing files at or beneath this path too. May come several times.
    #[arg(long, value_name = "PATH")]
    pub(crate) allow_backing: Vec<PathBuf>,
    /// Read even where another process writes; what is told may then be wrong.
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
}

/// Which backing files are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backing {
    /// Relative names that stay beneath the image's directory.
    Beneath,
    /// None: what the image does not hold itself reads as zero.
    None,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct InfoArgs {
    /// The image.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Tell about the backing files too.
    #[arg(long)]
    pub(crate) backing_chain: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// The image.
    pub(crate) file: PathBuf,
    /// The format of FILE. Not given: QCOW2 where the file begins with its magic, else raw.
    #[arg(short = 'f', long = "format", value_enum)]
    pub(crate) format: Option<Format>,
    /// Check even where another process writes; what is told may then be wrong.
    #[arg(short = 'U', long, conflicts_with = "repair")]
    pub(crate) force_share: bool,
    /// Repair; writes to the image.
    #[arg(short = 'r', long, value_enum, value_name = "WHAT")]
    pub(crate) repair: Option<Repair>,
}

/// What is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Repair {
    /// Give back clusters that nothing uses.
    Leaks,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct MapArgs {
    /// The image.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// The first image.
    pub(crate) first: PathBuf,
    /// The second image.
    pub(crate) second: PathBuf,
    /// The format of the first image. Not given: QCOW2 by its magic, else raw.
    #[arg(short = 'f', long, value_enum)]
    pub(crate) first_format: Option<Format>,
    /// The format of the second image. Not given: QCOW2 by its magic, else raw.
    #[arg(short = 'F', long, value_enum)]
    pub(crate) second_format: Option<Format>,
    #[command(flatten)]
    pub(crate) chain: ChainArgs,
    /// Different sizes are a difference, even where the longer disk only goes on with zeroes.
    #[arg(short = 's', long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConvertArgs {
    /// The image.
    pub(crate) source: PathBuf,
    /// The new file, or a block device.
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// The format of the new file.
    #[arg(short = 'O', long, value_enum, default_value_t = Format::Raw)]
    pub(crate) to: Format,
    /// The cluster size of a new QCOW2 file in bytes: 65536 to 2097152, a power of two.
    #[arg(long, default_value_t = 65536)]
    pub(crate) cluster_size: u64,
    /// Replace TARGET where it exists and no other process has it open; needed for a block device.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Tell the progress on standard error.
    #[arg(short = 'p', long)]
    pub(crate) progress: bool,
}

/// The disks of one machine, and how what is on them is looked at.
#[derive(Debug, Clone, Args)]
pub(crate) struct DisksArgs {
    /// The disks of one machine, an image each: the first is disk0.
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Show a file system whose journal cannot be replayed as it stands, with a warning: names and
    /// content may be old or wrong.
    #[arg(long)]
    pub(crate) accept_stale: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct FilesArgs {
    #[command(flatten)]
    pub(crate) disks: DisksArgs,
    /// The volume to look into. Not given: the volumes are listed.
    #[arg(long, value_name = "ID")]
    pub(crate) volume: Option<String>,
    /// The directory or file to list.
    #[arg(long, default_value = "/", requires = "volume")]
    pub(crate) path: OsString,
    /// List what is in directories inside of it too.
    #[arg(short = 'R', long, requires = "volume")]
    pub(crate) recursive: bool,
    /// Tell extended attributes too.
    #[arg(long, requires = "volume")]
    pub(crate) xattrs: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ExtractArgs {
    #[command(flatten)]
    pub(crate) disks: DisksArgs,
    /// The volume to extract from.
    #[arg(long, value_name = "ID")]
    pub(crate) volume: String,
    /// A file or directory, or a pattern: `/etc/fstab`, `/var/www/*.php`. May come several times.
    #[arg(long = "file", required = true, value_name = "PATH")]
    pub(crate) files: Vec<OsString>,
    /// Where they go, each under its whole path; made where it is missing.
    #[arg(long, value_name = "DEST")]
    pub(crate) output_dir: PathBuf,
    /// Replace files that are there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Make device nodes, sockets and pipes too. Needs root.
    #[arg(long)]
    pub(crate) special: bool,
}
