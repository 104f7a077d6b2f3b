//! The manifest of a restore point. It exists = the point is sealed, all of its disks at once.
//!
//! It names each disk's sidecar by a path relative to the VM's directory and by CRC-32, the sidecar
//! pins the checksum file, and that pins every cluster of the image.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::ids::{BackupKind, ContextId, DiskNumber, RepositoryId, Sequence, VmId};
use super::layout::{Part, Stem, disk_name};
use super::sealed_json::{self, Format, hex32, moment};
use crate::{Error, ErrorKind, Result};

const FORMAT: Format = Format {
    name: "sendense-point",
    version: 1,
};

/// The largest manifest that is read.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// A sealed restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointManifest {
    /// The restore point, and the job that made it.
    pub backup_id: BackupId,
    /// The repository that it was sealed in.
    pub repository_id: RepositoryId,
    /// The VM.
    pub vm_id: VmId,
    /// What the VM was called then; a label.
    pub vm_name: String,
    /// The VM's context id then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_id: Option<ContextId>,
    /// The place in the order of the VM's points.
    pub sequence: Sequence,
    /// What was asked for.
    pub requested_kind: BackupKind,
    /// What was done, taken together: a full only where every disk's is one.
    pub kind: BackupKind,
    /// Its disks, by number; one at least.
    pub disks: Vec<DiskEntry>,
    /// When the job began.
    #[serde(with = "moment")]
    pub started_at: Timestamp,
    /// When it was sealed.
    #[serde(with = "moment")]
    pub sealed_at: Timestamp,
    /// Which software wrote this.
    pub software: String,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// One disk of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Its number.
    pub disk: DiskNumber,
    /// Its sidecar, relative to the VM's directory.
    pub sidecar: String,
    /// CRC-32 of the sidecar's bytes.
    #[serde(with = "hex32")]
    pub crc32: u32,
}

impl DiskEntry {
    /// The entry of a disk whose sidecar has these bytes.
    pub fn new(disk: DiskNumber, stem: &Stem, sidecar: &[u8]) -> Self {
        Self {
            disk,
            sidecar: format!("{}/{}", disk_name(disk), stem.file(Part::Sidecar)),
            crc32: crc32fast::hash(sidecar),
        }
    }

    /// The common part of the disk's file names, where the path is one that we make.
    pub fn stem(&self) -> Option<Stem> {
        let file = self
            .sidecar
            .strip_prefix(&disk_name(self.disk))?
            .strip_prefix('/')?;
        Stem::parse(file.strip_suffix(".json")?)
    }
}

impl PointManifest {
    /// The file's content.
    pub fn encode(&self) -> Result<Vec<u8>> {
        sealed_json::encode(FORMAT, self)
    }

    /// Reads a manifest and checks what it says about itself. `at` names the file in errors.
    pub fn decode(at: &str, bytes: &[u8]) -> Result<Self> {
        let manifest: Self = sealed_json::decode(FORMAT, at, bytes)?;
        match manifest.contradiction() {
            None => Ok(manifest),
            Some(why) => Err(Error::new(
                ErrorKind::Damaged,
                format!("{at} contradicts itself: {why}"),
            )),
        }
    }

    fn contradiction(&self) -> Option<String> {
        if self.disks.is_empty() {
            return Some("it has no disk".into());
        }
        if let Some(entry) = self.disks.iter().find(|d| d.stem().is_none()) {
            return Some(format!("{:?} is not a sidecar's path", entry.sidecar));
        }
        let in_order = self.disks.is_sorted_by(|a, b| a.disk < b.disk);
        (!in_order).then(|| "its disks are not in order".into())
    }
}

/// The kind of a point whose disks have these kinds: a full only where all of them are, a
/// differential where all that are no fulls are, an incremental otherwise.
pub fn kind_together(kinds: impl IntoIterator<Item = BackupKind>) -> BackupKind {
    let mut together = BackupKind::Full;
    for kind in kinds {
        together = match (together, kind) {
            (known, BackupKind::Full) => known,
            (BackupKind::Full, kind) => kind,
            (BackupKind::Differential, BackupKind::Differential) => BackupKind::Differential,
            _ => BackupKind::Incremental,
        };
    }
    together
}

#[cfg(test)]
mod tests {
    use super::super::sidecar::tests::record;
    use super::*;

    fn manifest() -> PointManifest {
        let record = record(VmId::generate(), 0, 1);
        let stem = record.stem().unwrap();
        let sidecar = record.encode().unwrap();
        PointManifest {
            backup_id: record.backup_id,
            repository_id: record.repository_id,
            vm_id: record.vm_id,
            vm_name: "web \u{202e} <script>".into(),
            context_id: None,
            sequence: Sequence::FIRST,
            requested_kind: BackupKind::Incremental,
            kind: BackupKind::Full,
            disks: vec![DiskEntry::new(record.disk, &stem, &sidecar)],
            started_at: record.started_at,
            sealed_at: record.completed_at,
            software: "sendense test".into(),
            unknown: BTreeMap::new(),
        }
    }

    #[test]
    fn a_manifest_comes_back_exactly() {
        let manifest = manifest();
        let bytes = manifest.encode().unwrap();
        assert_eq!(PointManifest::decode("x", &bytes).unwrap(), manifest);
        assert_eq!(
            manifest.disks[0].sidecar,
            "disk-0/full-20251004-000001.json"
        );
    }

    #[test]
    fn paths_that_leave_the_vm_are_refused() {
        for path in [
            "../x/disk-0/full-20251004-000001.json",
            "/disk-0/full-20251004-000001.json",
            "disk-1/full-20251004-000001.json",
            "disk-0/../full-20251004-000001.json",
            "disk-0/full-20251004-000001.qcow2",
        ] {
            let mut bad = manifest();
            bad.disks[0].sidecar = path.into();
            let error = PointManifest::decode("x", &bad.encode().unwrap()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{path}");
        }
        let mut bad = manifest();
        bad.disks.push(bad.disks[0].clone());
        assert!(PointManifest::decode("x", &bad.encode().unwrap()).is_err());
        bad.disks.clear();
        assert!(PointManifest::decode("x", &bad.encode().unwrap()).is_err());
    }

    #[test]
    fn kinds_add_up() {
        use BackupKind::{Differential, Full, Incremental};
        assert_eq!(kind_together([Full, Full]), Full);
        assert_eq!(kind_together([Full, Incremental]), Incremental);
        assert_eq!(kind_together([Differential, Full]), Differential);
        assert_eq!(kind_together([Differential, Incremental]), Incremental);
        assert_eq!(kind_together([Incremental, Differential]), Incremental);
    }
}
