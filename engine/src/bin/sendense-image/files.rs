//! `files`: the volumes on disks, and the files on one of them.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

use sendense_engine::guest::path::{self, Last};
use sendense_engine::guest::walk::{Item, Step, Walk, join};
use sendense_engine::guest::{
    Fault, FaultKind, FileSystem, FileType, NodeId, Standing, VolumeFacts,
};
use serde::Serialize;

use crate::cli::{DisksArgs, FilesArgs, Output};
use crate::disks;
use crate::listing::{Line, Problem, human};
use crate::output::{Failure, bytes, json, line, shown};

pub(crate) fn run(output: Output, args: &FilesArgs) -> Result<u8, Failure> {
    let Some(id) = &args.volume else {
        return volumes(output, &args.disks);
    };
    let fs = disks::open_volume(&args.disks, id)?;
    if let Some(warning) = fs.facts().state.warning() {
        let _ = writeln!(
            io::stderr(),
            "warning: names and content may be old or wrong: {}",
            shown(warning.as_bytes())
        );
    }
    list(output, args, &*fs)
}

fn volumes(output: Output, args: &DisksArgs) -> Result<u8, Failure> {
    let session = disks::session(args)?;
    let rows = session.volumes();
    if output == Output::Json {
        json(&rows)?;
        return Ok(0);
    }
    line(&format!(
        "{:<24} {:<12} {:<24} size",
        "volume", "state", "content"
    ))?;
    rows.iter().try_for_each(tell)?;
    Ok(0)
}

fn tell(row: &VolumeFacts) -> Result<(), Failure> {
    let volume = &row.volume;
    let file_system = row.file_system.as_ref();
    let kind = file_system.map(|facts| facts.kind.as_str());
    line(&format!(
        "{:<24} {:<12} {:<24} {}",
        shown(volume.id.as_bytes()),
        row.state.map_or("-", Standing::name),
        kind.or(volume.content.as_deref()).unwrap_or("-"),
        bytes(volume.size),
    ))?;
    let label = file_system.and_then(|facts| facts.label.as_ref());
    let mut more: Vec<String> = label
        .map(|label| format!("label: {label}"))
        .into_iter()
        .collect();
    more.extend(volume.name.as_ref().map(|name| format!("name: {name}")));
    more.extend(row.reason.clone());
    more.extend(volume.notes.iter().cloned());
    for text in more {
        line(&format!("    {}", shown(text.as_bytes())))?;
    }
    Ok(())
}

/// The node of the path, and its own path from the root.
fn begin(fs: &dyn FileSystem, args: &FilesArgs) -> Result<(Vec<u8>, NodeId), Failure> {
    let asked = args.path.as_bytes();
    let node = match path::resolve(fs, asked, Last::Follow) {
        Err(fault) if matches!(fault.kind, FaultKind::NotFound | FaultKind::Limit) => {
            // A link that leads nowhere is something to list too.
            path::resolve(fs, asked, Last::Show).map_err(|_| fault)?
        }
        other => other?,
    };
    let parts = path::components(asked);
    Ok((parts.fold(Vec::new(), |path, part| join(&path, part)), node))
}

fn list(output: Output, args: &FilesArgs, fs: &dyn FileSystem) -> Result<u8, Failure> {
    let (at, node) = begin(fs, args)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut code = 0;
    for step in Walk::new(fs, at.clone(), node, args.recursive) {
        let told = match step {
            // The directory itself is what was asked for, not what is in it.
            Step::Leave(_) => continue,
            Step::Enter(item) if item.path == at && item.node == node => continue,
            Step::Enter(item) | Step::Node(item) => entry(output, args, fs, &item),
            Step::Fault { path, fault } => Err((path, fault)),
        };
        match told {
            Ok(text) => writeln!(out, "{text}")?,
            Err((path, fault)) => {
                code = 3;
                problem(output, &mut out, &path, &fault)?;
            }
        }
    }
    out.flush()?;
    Ok(code)
}

fn problem(
    output: Output,
    out: &mut impl Write,
    path: &[u8],
    fault: &Fault,
) -> Result<(), Failure> {
    if output == Output::Json {
        writeln!(out, "{}", text(&Problem::new(path, fault))?)?;
        return Ok(());
    }
    out.flush()?;
    let what = shown(fault.what.as_bytes());
    // Nothing can be done where the terminal is gone.
    let _ = writeln!(io::stderr(), "sendense-image: /{}: {what}", shown(path));
    Ok(())
}

fn entry(
    output: Output,
    args: &FilesArgs,
    fs: &dyn FileSystem,
    item: &Item,
) -> Result<String, (Vec<u8>, Fault)> {
    let failed = |fault| (item.path.clone(), fault);
    let link = match item.stat.file_type {
        FileType::Symlink => Some(fs.link(item.node).map_err(failed)?),
        _ => None,
    };
    let streams = fs.streams(item.node).map_err(failed)?;
    let xattrs = if args.xattrs {
        Some(fs.xattrs(item.node).map_err(failed)?)
    } else {
        None
    };
    let line = Line::new(item, link.as_deref(), &streams, xattrs.as_deref());
    match output {
        Output::Json => text(&line).map_err(|_| failed(Fault::damaged("it cannot be written"))),
        Output::Human => Ok(human(item, link.as_deref(), &streams, xattrs.as_deref())),
    }
}

fn text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(e.to_string(), "report this"))
}
