//! `files`: the volumes on disks, and the files on one of them.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

use sendense_engine::guest::path::{self, Last};
use sendense_engine::guest::volumes::{Content, Summary, Volume};
use sendense_engine::guest::walk::{Item, Step, Walk, join};
use sendense_engine::guest::{Facts, Fault, FaultKind, FileSystem, FileType, Found, NodeId, State};
use serde::Serialize;

use crate::cli::{DisksArgs, FilesArgs, Output};
use crate::disks;
use crate::listing::{Line, Problem, human};
use crate::output::{Failure, bytes, json, line, shown};

/// One volume.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    volume: Summary,
    /// `clean`, `replayed`, `unreplayed`, `unsupported`, `damaged`, `unavailable`; none where
    /// nothing is known.
    state: Option<&'static str>,
    /// Why it is in that state.
    reason: Option<String>,
    file_system: Option<Facts>,
}

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
    let all = disks::find(args)?;
    let rows: Vec<Row> = all.iter().map(|volume| row(volume, args)).collect();
    if output == Output::Json {
        json(&rows)?;
        return Ok(0);
    }
    line(&format!(
        "{:<24} {:<12} {:<24} size",
        "volume", "state", "content"
    ))?;
    for row in &rows {
        tell(row)?;
    }
    Ok(0)
}

fn tell(row: &Row) -> Result<(), Failure> {
    let volume = &row.volume;
    let kind = row.file_system.as_ref().map(|facts| facts.kind.clone());
    line(&format!(
        "{:<24} {:<12} {:<24} {}",
        shown(volume.id.as_bytes()),
        row.state.unwrap_or("-"),
        kind.as_deref().or(volume.content.as_deref()).unwrap_or("-"),
        bytes(volume.size),
    ))?;
    let mut more = Vec::new();
    let label = row
        .file_system
        .as_ref()
        .and_then(|facts| facts.label.as_ref());
    more.extend(label.map(|label| format!("label: {label}")));
    more.extend(volume.name.as_ref().map(|name| format!("name: {name}")));
    more.extend(row.reason.clone());
    more.extend(volume.notes.iter().cloned());
    for text in more {
        line(&format!("    {}", shown(text.as_bytes())))?;
    }
    Ok(())
}

fn row(volume: &Volume, args: &DisksArgs) -> Row {
    let opened = match &volume.content {
        // A part of something that has lines of its own; the notes say of what.
        Content::Blocks {
            found: Found::LvmMember,
            ..
        } => {
            return Row {
                volume: volume.summary(),
                state: None,
                reason: None,
                file_system: None,
            };
        }
        Content::Blocks { blocks, .. } => disks::open(blocks, args),
        Content::Unavailable(why) => {
            return Row {
                volume: volume.summary(),
                state: Some("unavailable"),
                reason: Some(why.clone()),
                file_system: None,
            };
        }
    };
    let (state, reason, file_system) = match opened {
        Ok(fs) => {
            let facts = fs.facts().clone();
            let (state, reason) = match &facts.state {
                State::Clean => ("clean", None),
                State::Replayed { reason } => ("replayed", Some(reason.clone())),
                State::Unreplayed { reason } => ("unreplayed", Some(reason.clone())),
            };
            (Some(state), reason, Some(facts))
        }
        Err(fault) => {
            let state = match fault.kind {
                FaultKind::Unsupported => Some("unsupported"),
                FaultKind::Stale => Some("unreplayed"),
                FaultKind::NotFound => None,
                _ => Some("damaged"),
            };
            (state, Some(fault.to_string()), None)
        }
    };
    Row {
        volume: volume.summary(),
        state,
        reason,
        file_system,
    }
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
