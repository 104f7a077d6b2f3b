//! `convert`: a chain, a QCOW2 or a raw file into one new file, or onto a device.

use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use sendense_engine::restore::{self, FileFormat, RestoreTarget};
use sendense_engine::storage::Create;
use sendense_engine::storage::local::{LocalDirectory, open_path};
use sendense_engine::transfer::{ChainReader, CopyOptions, Progress};
use sendense_engine::{Error, ErrorKind};
use sendense_formats::ClusterSize;
use sendense_formats::qcow2::image_size;
use serde::Serialize;

use crate::cli::{ConvertArgs, Format, Output};
use crate::open;
use crate::output::{Failure, bytes, json, line};

#[derive(Debug, Serialize)]
struct Report {
    target: String,
    virtual_size: u64,
    written: u64,
    zero: u64,
}

pub(crate) fn run(output: Output, args: &ConvertArgs) -> Result<u8, Failure> {
    let format = match args.to {
        Format::Raw => FileFormat::Raw,
        Format::Qcow2 => {
            let cluster = ClusterSize::from_bytes(args.cluster_size).filter(|c| c.bits() >= 16);
            FileFormat::Qcow2(cluster.ok_or_else(|| {
                Failure::new(
                    format!("{} is no cluster size that is written", args.cluster_size),
                    "take a power of two from 65536 to 2097152",
                )
            })?)
        }
    };
    let chain = open::chain(&args.source, &args.open)?;
    let source = chain.size();
    let size = match format {
        FileFormat::Raw => source,
        FileFormat::Qcow2(_) => image_size(source),
    };
    let target = target(&args.target, format, args.overwrite)?;
    let progress = Progress::new();
    let watch = args.progress.then(|| progress.clone());
    let copied = open::block_on(|io| async move {
        let reader = ChainReader::new(chain);
        let options = CopyOptions::default();
        let work = restore::write(&io, &reader, target, &options, &progress);
        tokio::pin!(work);
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                done = &mut work => {
                    tell(watch.as_ref());
                    break Ok(done?);
                }
                _ = tick.tick() => tell(watch.as_ref()),
            }
        }
    })?;
    let name = args.target.display().to_string();
    if output == Output::Json {
        json(&Report {
            target: name,
            virtual_size: size,
            written: copied.written,
            zero: copied.zero,
        })?;
    } else {
        line(&format!(
            "{name}: {} written, {} zero.",
            bytes(copied.written),
            bytes(copied.zero)
        ))?;
        if size > source {
            line(&format!(
                "The disk of {source} bytes ends inside of a sector: it was rounded up to {size} \
                 with {} bytes of zero.",
                size - source
            ))?;
        }
    }
    Ok(0)
}

fn target(path: &Path, format: FileFormat, overwrite: bool) -> Result<RestoreTarget, Failure> {
    let name = path.display().to_string();
    let device = std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
    if device {
        if !overwrite || format != FileFormat::Raw {
            return Err(Failure::new(
                format!("{name}: is a block device"),
                "pass --overwrite to lose what it holds; only raw goes onto a device",
            ));
        }
        let file = open_path(path, Create::Claim).map_err(|e| Error::io(&name, e))?;
        return Ok(RestoreTarget::Device { file, name });
    }
    let parent = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let file = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            format!("{name}: is no name for a new file"),
        )
    })?;
    let directory = LocalDirectory::open(parent);
    Ok(RestoreTarget::File {
        directory: directory.map_err(|e| Error::io(parent.display().to_string(), e))?,
        path: file.to_owned(),
        format,
        overwrite,
    })
}

fn tell(progress: Option<&Progress>) {
    let Some(progress) = progress else {
        return;
    };
    let now = progress.snapshot();
    let percent = now
        .done
        .saturating_mul(100)
        .checked_div(now.total)
        .unwrap_or(100);
    // Progress is a courtesy: where it cannot be shown, the work goes on.
    let _ = write!(std::io::stderr(), "\r{percent:3} %");
    if percent == 100 {
        let _ = writeln!(std::io::stderr());
    }
}
