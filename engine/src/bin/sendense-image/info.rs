//! `info`: what an image is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sendense_engine::chain::Layer;
use sendense_formats::qcow2::Compression;
use serde::Serialize;

use crate::cli::{Backing, InfoArgs, Output};
use crate::open;
use crate::output::{Failure, bytes, json, line};

#[derive(Debug, Serialize)]
struct Info {
    file: String,
    format: &'static str,
    virtual_size: u64,
    file_length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qcow2: Option<Qcow2>,
}

#[derive(Debug, Serialize)]
struct Qcow2 {
    version: u32,
    cluster_size: u64,
    refcount_bits: u32,
    compression: &'static str,
    extended_l2: bool,
    lazy_refcounts: bool,
    dirty: bool,
    corrupt: bool,
    snapshots: u32,
    backing_file: Option<String>,
    backing_format: Option<String>,
}

/// Compatible feature bit 0.
const LAZY_REFCOUNTS: u64 = 1;

pub(crate) fn run(output: Output, args: &InfoArgs) -> Result<u8, Failure> {
    let mut open = args.open.clone();
    if !args.backing_chain {
        open.chain.backing = Backing::None;
    }
    let chain = open::chain(&args.file, &open)?;
    let infos: Vec<Info> = chain.layers().iter().map(info).collect();
    match (output, args.backing_chain, infos.as_slice()) {
        (Output::Json, false, [only]) => json(only)?,
        (Output::Json, ..) => json(&infos)?,
        (Output::Human, _, infos) => {
            for (i, info) in infos.iter().enumerate() {
                if i > 0 {
                    line("")?;
                }
                human(info)?;
            }
        }
    }
    Ok(0)
}

fn info(layer: &Layer) -> Info {
    let allocated = std::fs::metadata(Path::new(layer.name()));
    Info {
        file: layer.name().to_owned(),
        format: if layer.image().is_some() {
            "qcow2"
        } else {
            "raw"
        },
        virtual_size: layer.size(),
        file_length: layer.file_len(),
        allocated_bytes: allocated
            .ok()
            .filter(|m| m.is_file())
            .map(|m| m.blocks() * 512),
        qcow2: layer.image().map(|image| {
            let header = image.header();
            Qcow2 {
                version: header.version,
                cluster_size: header.cluster.bytes(),
                refcount_bits: 1 << header.refcount_order,
                compression: match header.compression {
                    Compression::Zlib => "zlib",
                    Compression::Zstd => "zstd",
                },
                extended_l2: header.extended_l2(),
                lazy_refcounts: header.compatible & LAZY_REFCOUNTS != 0,
                dirty: header.dirty(),
                corrupt: header.corrupt(),
                snapshots: header.snapshots,
                backing_file: header.backing.as_ref().map(|b| b.name.clone()),
                backing_format: header.backing.as_ref().and_then(|b| b.format.clone()),
            }
        }),
    }
}

fn human(info: &Info) -> Result<(), Failure> {
    line(&format!("image: {}", info.file.escape_debug()))?;
    line(&format!("format: {}", info.format))?;
    line(&format!("virtual size: {}", bytes(info.virtual_size)))?;
    line(&format!("file length: {}", bytes(info.file_length)))?;
    if let Some(allocated) = info.allocated_bytes {
        line(&format!("allocated: {}", bytes(allocated)))?;
    }
    let Some(q) = &info.qcow2 else {
        return Ok(());
    };
    line(&format!("version: {}", q.version))?;
    line(&format!("cluster size: {}", bytes(q.cluster_size)))?;
    line(&format!("refcount bits: {}", q.refcount_bits))?;
    line(&format!("compression: {}", q.compression))?;
    let flags = [
        (q.extended_l2, "extended L2"),
        (q.lazy_refcounts, "lazy refcounts"),
        (q.dirty, "DIRTY"),
        (q.corrupt, "CORRUPT"),
    ];
    let flags: Vec<&str> = flags
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| *name)
        .collect();
    if !flags.is_empty() {
        line(&format!("flags: {}", flags.join(", ")))?;
    }
    if q.snapshots > 0 {
        line(&format!(
            "snapshots: {} (only the active state is read)",
            q.snapshots
        ))?;
    }
    if let Some(name) = &q.backing_file {
        // The text is a stranger's: control characters must not reach the terminal.
        let format = q.backing_format.as_deref().unwrap_or("not stated");
        line(&format!(
            "backing file: {} (format {})",
            name.escape_debug(),
            format.escape_debug()
        ))?;
    }
    Ok(())
}
