//! `check`: the image's own structure, and leaks repaired on demand.

use sendense_engine::Error;
use sendense_engine::chain::FileAt;
use sendense_engine::storage::local::open_path;
use sendense_engine::storage::{Create, LockKind};
use sendense_formats::HostOffset;
use sendense_formats::qcow2::{
    CheckReport, OpenError, OpenPolicy, ReadAt, Severity, check, repair_leaks,
};
use serde::Serialize;

use crate::cli::{CheckArgs, Format, Output};
use crate::open;
use crate::output::{Failure, json, line, report};

/// There is nothing to check in a file of this format; as in `qemu-img`.
const NO_CHECKS: u8 = 63;

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    format: &'static str,
    corruptions: u64,
    leaks: u64,
    leaks_repaired: u64,
    dirty: bool,
    corrupt: bool,
    total_clusters: u64,
    allocated_clusters: u64,
    compressed_clusters: u64,
    fragmented_clusters: u64,
    image_end_offset: u64,
    findings: Vec<Finding>,
    findings_left_out: u64,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: &'static str,
    offset: u64,
    detail: String,
}

pub(crate) fn run(output: Output, args: &CheckArgs) -> Result<u8, Failure> {
    let name = args.file.display().to_string();
    let (file, format) = open::file(&args.file, args.format, args.force_share)?;
    if format == Format::Raw {
        let failure = Failure::new(
            format!("{name}: a raw file has no structure to check"),
            "where it is a QCOW2 image all the same, say so with -f qcow2",
        );
        report(output, &failure);
        return Ok(NO_CHECKS);
    }
    let mut found = judge(
        &name,
        &FileAt::new(file.clone()).map_err(|e| Error::io(&name, e))?,
    )?;
    let mut repaired = 0;
    if args.repair.is_some() && found.leaks > 0 {
        file.unlock().map_err(|e| Error::io(&name, e))?;
        drop(file);
        repaired = found.leaks;
        found = repair(&name, args)?;
        repaired = repaired.saturating_sub(found.leaks);
    }
    tell(output, &name, &found, repaired)?;
    Ok(found.exit_code())
}

fn judge(name: &str, file: &impl ReadAt) -> Result<CheckReport, Failure> {
    check(file, OpenPolicy::default()).map_err(|e| match e {
        OpenError::Format(e) => {
            let mut e = Error::from(e);
            name.clone_into(&mut e.at);
            e.into()
        }
        OpenError::Io(e) => Error::io(name, e).into(),
    })
}

/// The image as it would be with the repairs.
struct Patched<'a> {
    file: &'a FileAt,
    repairs: &'a [(HostOffset, Vec<u8>)],
}

impl ReadAt for Patched<'_> {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, at: HostOffset, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read_at(at, buf)?;
        let end = at.get().saturating_add(buf.len() as u64);
        for (host, bytes) in self.repairs {
            let from = host.get().max(at.get());
            let until = host.get().saturating_add(bytes.len() as u64).min(end);
            let part = |start: u64| {
                let first = usize::try_from(from.checked_sub(start)?).ok()?;
                let last = usize::try_from(until.checked_sub(start)?).ok()?;
                Some(first..last)
            };
            let to = part(at.get()).and_then(|r| buf.get_mut(r));
            let new = part(host.get()).and_then(|r| bytes.get(r));
            if let (Some(to), Some(new)) = (to, new) {
                to.copy_from_slice(new);
            }
        }
        Ok(())
    }
}

/// Checks again with the image locked for writing, then repairs what that check found. Nothing is
/// written where the repaired image would not be sound: an entry may say that its cluster is
/// shared, with a table that is lost and not with the leak.
fn repair(name: &str, args: &CheckArgs) -> Result<CheckReport, Failure> {
    let io = |e| Error::io(name, e);
    let file = open_path(&args.file, Create::OpenWrite).map_err(io)?;
    file.lock(LockKind::Writer).map_err(io)?;
    let at = FileAt::new(file.clone()).map_err(io)?;
    let found = judge(name, &at)?;
    let repairs = repair_leaks(&found).map_err(Error::from)?;
    let trial = Patched {
        file: &at,
        repairs: &repairs,
    };
    let after = judge(name, &trial)?;
    if after.corruptions > 0 {
        return Err(Failure::new(
            format!(
                "{name}: giving the leaks back would leave {} entries that say their cluster is \
                 shared; nothing was changed",
                after.corruptions
            ),
            "the data is whole: copy it into a new image with `sendense-image convert`",
        ));
    }
    for (host, bytes) in repairs {
        file.write_at_blocking(host.get(), &bytes).map_err(io)?;
    }
    file.sync_blocking().map_err(io)?;
    judge(name, &at)
}

fn tell(output: Output, name: &str, found: &CheckReport, repaired: u64) -> Result<(), Failure> {
    let findings: Vec<Finding> = found
        .findings
        .iter()
        .map(|f| Finding {
            severity: match f.severity {
                Severity::Corruption => "corruption",
                Severity::Leak => "leak",
            },
            offset: f.at.get(),
            detail: f.detail.clone(),
        })
        .collect();
    if output == Output::Json {
        return json(&Report {
            file: name.to_owned(),
            format: "qcow2",
            corruptions: found.corruptions,
            leaks: found.leaks,
            leaks_repaired: repaired,
            dirty: found.dirty,
            corrupt: found.corrupt,
            total_clusters: found.total_clusters,
            allocated_clusters: found.allocated_clusters,
            compressed_clusters: found.compressed_clusters,
            fragmented_clusters: found.fragmented_clusters,
            image_end_offset: found.image_end.get(),
            findings,
            findings_left_out: found.findings_left_out(),
        });
    }
    for finding in &findings {
        line(&format!(
            "{} at {:#x}: {}",
            finding.severity, finding.offset, finding.detail
        ))?;
    }
    if found.findings_left_out() > 0 {
        line(&format!("... and {} more", found.findings_left_out()))?;
    }
    if repaired > 0 {
        line(&format!("{repaired} leaked clusters were given back."))?;
    }
    if found.dirty {
        line("The image was not closed properly (dirty): open it with QEMU for writing once.")?;
    }
    if found.corrupt {
        line("The image is marked as corrupt by whoever wrote it last.")?;
    }
    line(&match (found.corruptions, found.leaks) {
        (0, 0) => "No errors were found.".to_owned(),
        (0, leaks) => format!("{leaks} leaked clusters: space is lost, data is not."),
        (bad, leaks) => format!("{bad} corruptions, {leaks} leaked clusters."),
    })?;
    line(&format!(
        "{} of {} clusters in use, {} fragmented, {} compressed; the image ends at byte {}.",
        found.allocated_clusters,
        found.total_clusters,
        found.fragmented_clusters,
        found.compressed_clusters,
        found.image_end.get()
    ))
}
