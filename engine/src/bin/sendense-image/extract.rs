//! `extract`: files of a volume into a directory.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

use sendense_engine::guest::extract::{Event, NoteKind, Options, Report, extract};

use crate::cli::{ExtractArgs, Output};
use crate::disks;
use crate::output::{Failure, bytes, json, line, shown};

pub(crate) fn run(output: Output, args: &ExtractArgs) -> Result<u8, Failure> {
    let root = rustix::process::geteuid().is_root();
    if args.special && !root {
        return Err(Failure::new(
            "only root can make device nodes",
            "run it as root, or leave --special away",
        ));
    }
    let fs = disks::open_volume(&args.disks, &args.volume)?;
    let options = Options {
        overwrite: args.overwrite,
        owners: root,
        special: args.special,
    };
    if let Some(warning) = fs.facts().state.warning() {
        warn(&format!(
            "warning: names and content may be old or wrong: {warning}"
        ));
    }
    let patterns: Vec<Vec<u8>> = args.files.iter().map(|f| f.as_bytes().to_vec()).collect();
    let mut watch = |event: Event<'_>| {
        if let (Event::Note(note), Output::Human) = (&event, output) {
            let kind = match note.kind {
                NoteKind::Failed => "not extracted",
                NoteKind::Skipped => "skipped",
                NoteKind::Incomplete => "not whole",
            };
            warn(&format!("{kind}: {}: {}", note.path, note.what));
        }
        ControlFlow::Continue(())
    };
    let report = extract(&*fs, &patterns, &args.output_dir, &options, &mut watch)?;
    if output == Output::Json {
        json(&report)?;
    } else {
        tell(&report)?;
    }
    Ok(match (report.failed + report.incomplete, report.made()) {
        (0, _) => 0,
        (_, 0) => 1,
        _ => 3,
    })
}

fn tell(report: &Report) -> Result<(), Failure> {
    line(&format!(
        "{} files, {} directories, {} symbolic links, {} further names, {} special files; {} \
         written.",
        report.files,
        report.directories,
        report.symlinks,
        report.hard_links,
        report.special,
        bytes(report.bytes)
    ))?;
    if report.special_skipped > 0 {
        line(&format!(
            "{} device nodes, sockets or pipes were skipped (--special makes them).",
            report.special_skipped
        ))?;
    }
    if report.failed + report.incomplete > 0 {
        line(&format!(
            "{} not extracted, {} things of others missing.",
            report.failed, report.incomplete
        ))?;
    }
    Ok(())
}

/// The text may be a stranger's.
fn warn(text: &str) {
    // Nothing can be done where the terminal is gone.
    let _ = writeln!(io::stderr(), "{}", shown(text.as_bytes()));
}
