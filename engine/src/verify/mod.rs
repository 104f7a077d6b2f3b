//! Verifying a restore point: is every byte of its files what was sealed?
//!
//! For each layer of a disk: the checksum file against the sidecar, every host cluster against its
//! checksum, the image's own structure as `qemu-img check` judges it, and the sidecar's identity
//! against its neighbours in the chain. What is found names the file, the host cluster and the
//! guest bytes that are hit. Nothing is changed.

mod guest;
mod identity;
#[cfg(test)]
mod tests;

use sendense_formats::GuestRange;
use sendense_formats::qcow2::{OpenError, OpenPolicy, Severity, check};

use crate::chain::FileAt;
use crate::repository::{BackupId, LayerFile};
use crate::transfer::Progress;
use crate::{Error, Result};

/// Findings that are kept in words; all are counted.
const MAX_FINDINGS: usize = 1000;
/// Bytes that are read at once.
const WINDOW: u64 = 4 << 20;

/// What kind of damage a finding is.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FindingKind {
    /// A host cluster is not what was sealed.
    Checksum,
    /// The checksum file is not what was sealed.
    ChecksumFile,
    /// The image's tables contradict each other.
    Structure,
    /// Space in the image that nothing uses; no data is at risk.
    Leak,
    /// A sidecar does not fit the image or the chain.
    Identity,
    /// A file cannot be read.
    Unreadable,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// What kind.
    pub kind: FindingKind,
    /// The host cluster, where it is one.
    pub host_cluster: Option<u64>,
    /// The bytes of the disk that are kept there; empty where it holds no data of the disk.
    pub guest: Vec<GuestRange>,
    /// One sentence.
    pub detail: String,
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The first thousand findings.
    pub findings: Vec<Finding>,
    /// All of them.
    pub total: u64,
    /// Of all, those that put data at risk: everything but leaks.
    pub damage: u64,
    /// Bytes that were read and compared.
    pub checked: u64,
    /// The restore points whose own files are damaged, newest first; whatever is read through one
    /// of them is damaged too.
    pub layers: Vec<BackupId>,
}

impl VerifyReport {
    /// Whether the restore point can be trusted.
    pub fn is_sound(&self) -> bool {
        self.damage == 0
    }

    fn add(&mut self, finding: Finding) {
        self.total += 1;
        if finding.kind != FindingKind::Leak {
            self.damage += 1;
        }
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Verifies the layers of one disk, newest first. Blocking; run it where that is allowed.
///
/// An error means that verifying was cancelled; what is wrong with the files is in the report.
pub fn verify(layers: &[LayerFile], progress: &Progress) -> Result<VerifyReport> {
    progress.begin(layers.iter().map(|l| l.record.image.len).sum());
    let mut report = VerifyReport::default();
    identity::judge(layers, &mut report);
    let named: Vec<String> = report.findings.iter().map(|f| f.file.clone()).collect();
    for layer in layers {
        let before = report.damage;
        files(layer, progress, &mut report)?;
        if report.damage > before || named.contains(&layer.record.image.file) {
            report.layers.push(layer.record.backup_id.clone());
        }
    }
    Ok(report)
}

/// Verifies the files of one layer alone: its checksum file, every host cluster, its structure.
pub(crate) fn verify_layer(layer: &LayerFile, progress: &Progress) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    files(layer, progress, &mut report)?;
    Ok(report)
}

fn files(layer: &LayerFile, progress: &Progress, report: &mut VerifyReport) -> Result<()> {
    if let Err(e) = layer.checksums.check_whole(&layer.record.checksums) {
        report.add(Finding {
            file: layer.record.checksums.file.clone(),
            kind: FindingKind::ChecksumFile,
            host_cluster: None,
            guest: Vec::new(),
            detail: e.to_string(),
        });
    }
    clusters(layer, progress, report)?;
    structure(layer, report);
    Ok(())
}

/// Compares every host cluster with its checksum.
fn clusters(layer: &LayerFile, progress: &Progress, report: &mut VerifyReport) -> Result<()> {
    let cluster = layer.checksums.cluster();
    let len = layer.checksums.image_len();
    let window = WINDOW.max(cluster.bytes());
    let mut buf = vec![0; usize::try_from(window.min(len)).unwrap_or(0)];
    let mut bad = Vec::new();
    let mut at = 0;
    while at < len {
        progress.check()?;
        let here = usize::try_from(window.min(len - at)).unwrap_or(0);
        let Some(part) = buf.get_mut(..here) else {
            break;
        };
        let first = at >> cluster.bits();
        let compared = layer
            .file
            .read_at_blocking(at, part)
            .map_err(|e| Error::io(&layer.record.image.file, e))
            .and_then(|()| layer.checksums.differing(first, part));
        match compared {
            Ok(differing) => bad.extend(differing),
            Err(e) => report.add(Finding {
                file: layer.record.image.file.clone(),
                kind: FindingKind::Unreadable,
                host_cluster: Some(first),
                guest: Vec::new(),
                detail: e.to_string(),
            }),
        }
        report.checked += here as u64;
        progress.same(here as u64);
        at += here as u64;
    }
    let mut guests = guest::kept_in(layer, &bad);
    for cluster in bad {
        report.add(Finding {
            file: layer.record.image.file.clone(),
            kind: FindingKind::Checksum,
            host_cluster: Some(cluster),
            guest: guests.remove(&cluster).unwrap_or_default(),
            detail: format!("host cluster {cluster} is not what was sealed"),
        });
    }
    Ok(())
}

/// The image's own tables.
fn structure(layer: &LayerFile, report: &mut VerifyReport) {
    let file = &layer.record.image.file;
    let cluster = layer.checksums.cluster();
    let one = |kind, host_cluster, detail| Finding {
        file: file.clone(),
        kind,
        host_cluster,
        guest: Vec::new(),
        detail,
    };
    let opened = FileAt::new(layer.file.clone());
    match opened
        .map_err(OpenError::Io)
        .and_then(|f| check(&f, OpenPolicy::default()))
    {
        Ok(found) => {
            for f in &found.findings {
                let kind = match f.severity {
                    Severity::Corruption => FindingKind::Structure,
                    Severity::Leak => FindingKind::Leak,
                };
                let at = Some(f.at.get() >> cluster.bits());
                report.add(one(kind, at, f.detail.clone()));
            }
            report.total += found.findings_left_out();
            report.damage += found.corruptions.saturating_sub(
                found
                    .findings
                    .iter()
                    .filter(|f| f.severity == Severity::Corruption)
                    .count() as u64,
            );
            if found.dirty || found.corrupt {
                let detail = "the image is marked dirty or corrupt: another program wrote to it";
                report.add(one(FindingKind::Structure, Some(0), detail.to_owned()));
            }
        }
        Err(e) => {
            let kind = match &e {
                OpenError::Format(_) => FindingKind::Structure,
                OpenError::Io(_) => FindingKind::Unreadable,
            };
            report.add(one(kind, None, e.to_string()));
        }
    }
}
