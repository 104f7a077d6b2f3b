//! The sidecar of one disk of one restore point: everything that the catalog knows about it, so
//! that the catalog can be made anew from the repository alone.
//!
//! Written once, before the seal; never changed afterwards. It lies beside its image and names the
//! parent twice: by id (which counts) and by file name (which is only compared).

use std::collections::BTreeMap;

use jiff::Timestamp;
use sendense_formats::ClusterSize;
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::ids::{
    BackupKind, ChangeToken, ContextId, DeviceKey, DiskNumber, RepositoryId, Sequence, VmId,
};
use super::layout::{Part, Stem, disk_dir};
use super::sealed_json::{self, Format, hex32, moment};
use crate::{Error, ErrorKind, Result};

const FORMAT: Format = Format {
    name: "sendense-disk",
    version: 1,
};

/// The largest sidecar that is read.
pub const MAX_SIDECAR_BYTES: usize = 1 << 20;

/// One disk of one restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// The restore point.
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
    /// The disk's number.
    pub disk: DiskNumber,
    /// The disk's identity within the VM.
    pub device_key: DeviceKey,
    /// The place in the order of this VM's disk.
    pub sequence: Sequence,
    /// What was asked for.
    pub requested_kind: BackupKind,
    /// What was done.
    pub kind: BackupKind,
    /// Why that was done, in a stable word.
    pub reason: String,
    /// The same in a sentence with the values.
    pub reason_detail: String,
    /// The restore point beneath; a full has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentLink>,
    /// What the sent blocks were relative to: the parent's token; a full has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_token: Option<ChangeToken>,
    /// What this content is called.
    pub token: ChangeToken,
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// The image's cluster size in bytes.
    pub cluster_size: u64,
    /// Bytes counted while they came in.
    pub counts: Counts,
    /// The image.
    pub image: ImageRef,
    /// Its checksums.
    pub checksums: ChecksumsRef,
    /// How many disks the restore point has, this one included, so that it can be told whether all
    /// are there where its manifest is not; early versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point_disks: Option<u32>,
    /// When the job began.
    #[serde(with = "moment")]
    pub started_at: Timestamp,
    /// When this disk was complete.
    #[serde(with = "moment")]
    pub completed_at: Timestamp,
    /// Which software wrote this.
    pub software: String,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// The restore point beneath.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentLink {
    /// Its id.
    pub backup_id: BackupId,
    /// Its image's file name in the same directory: what the image names as its backing file.
    pub file: String,
}

/// Bytes of one disk's backup, counted by the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Payload bytes that came over the wire.
    pub transferred: u64,
    /// Bytes of data clusters in the image.
    pub stored: u64,
    /// Bytes of the disk that this point says are zero.
    pub zero: u64,
    /// Bytes of the disk that were written, zeroed or trimmed.
    pub covered: u64,
}

/// The image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Its name in this directory.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
}

/// The checksum file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksumsRef {
    /// Its name in this directory.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 of all of it.
    #[serde(with = "hex32")]
    pub crc32: u32,
}

impl DiskRecord {
    /// The file's content.
    pub fn encode(&self) -> Result<Vec<u8>> {
        sealed_json::encode(FORMAT, self)
    }

    /// Reads a sidecar and checks what it says about itself. `at` names the file in errors.
    pub fn decode(at: &str, bytes: &[u8]) -> Result<Self> {
        let record: Self = sealed_json::decode(FORMAT, at, bytes)?;
        match record.contradiction() {
            None => Ok(record),
            Some(why) => Err(Error::new(
                ErrorKind::Damaged,
                format!("{at} contradicts itself: {why}"),
            )),
        }
    }

    /// The common part of this disk's file names.
    pub fn stem(&self) -> Option<Stem> {
        Stem::of_image(&self.image.file)
    }

    /// Where the image lies, relative to the repository.
    pub fn locator(&self) -> String {
        format!("{}/{}", disk_dir(self.vm_id, self.disk), self.image.file)
    }

    /// The cluster size, as a type.
    pub fn cluster(&self) -> Option<ClusterSize> {
        ClusterSize::from_bytes(self.cluster_size)
    }

    fn contradiction(&self) -> Option<String> {
        let Some(stem) = self.stem() else {
            return Some(format!("{:?} is not an image's name", self.image.file));
        };
        if self.checksums.file != stem.file(Part::Checksums) {
            return Some("image and checksum file have different names".into());
        }
        if stem.kind() != self.kind {
            return Some(format!("{stem} is called a {}", self.kind));
        }
        if self.cluster().is_none() {
            return Some(format!("the cluster size is {}", self.cluster_size));
        }
        let full = self.kind == BackupKind::Full;
        match (&self.parent, &self.base_token) {
            (None, None) if full => None,
            (Some(parent), Some(_)) if !full => match Stem::of_image(&parent.file) {
                Some(under) if under != stem => None,
                _ => Some(format!("the parent's file is {:?}", parent.file)),
            },
            _ => Some(format!("parent and base token do not fit a {}", self.kind)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record that is right in itself; tests change what they are about.
    pub(in crate::repository) fn record(vm: VmId, disk: u32, number: u64) -> DiskRecord {
        let at: Timestamp = "2025-10-04T12:00:00Z".parse().unwrap();
        let id = format!("backup-web-20251004{number:06}");
        let stem = format!("full-20251004-{number:06}");
        let disk = DiskNumber::new(disk).unwrap();
        DiskRecord {
            backup_id: BackupId::parse(id).unwrap(),
            repository_id: RepositoryId::parse("6f1c2b1e-9a51-4f0e-8d7a-3d1a52c9e001").unwrap(),
            vm_id: vm,
            vm_name: "web".into(),
            context_id: None,
            disk,
            device_key: DeviceKey::of_number(disk),
            sequence: Sequence::new(number),
            requested_kind: BackupKind::Full,
            kind: BackupKind::Full,
            reason: "as_requested".into(),
            reason_detail: "a full was asked for".into(),
            parent: None,
            base_token: None,
            token: ChangeToken::parse(format!("t{number}")).unwrap(),
            virtual_size: 3 << 30,
            cluster_size: 65536,
            counts: Counts::default(),
            image: ImageRef {
                file: format!("{stem}.qcow2"),
                len: 262_144,
            },
            checksums: ChecksumsRef {
                file: format!("{stem}.crc"),
                len: 8192,
                crc32: 0x00ab_cdef,
            },
            point_disks: None,
            started_at: at,
            completed_at: at,
            software: "sendense test".into(),
            unknown: BTreeMap::new(),
        }
    }

    /// The record of an increment on `parent`.
    pub(in crate::repository) fn child(
        parent: &DiskRecord,
        number: u64,
        kind: BackupKind,
    ) -> DiskRecord {
        let mut child = record(parent.vm_id, parent.disk.get(), number);
        child.kind = kind;
        child.requested_kind = kind;
        child.device_key = parent.device_key.clone();
        child.image.file = format!("{}-20251004-{number:06}.qcow2", kind.short());
        child.checksums.file = format!("{}-20251004-{number:06}.crc", kind.short());
        child.parent = Some(ParentLink {
            backup_id: parent.backup_id.clone(),
            file: parent.image.file.clone(),
        });
        child.base_token = Some(parent.token.clone());
        child
    }

    #[test]
    fn a_record_comes_back_exactly() {
        let full = record(VmId::generate(), 0, 1);
        let mut incr = child(&full, 2, BackupKind::Incremental);
        incr.virtual_size = (5 << 30) + 512; // exact bytes, no rounding to GiB
        incr.unknown
            .insert("added_later".into(), serde_json::json!({"a": [1]}));
        for record in [full, incr] {
            let bytes = record.encode().unwrap();
            assert_eq!(DiskRecord::decode("x", &bytes).unwrap(), record);
        }
    }

    #[test]
    fn a_record_that_contradicts_itself_is_damaged() {
        let full = record(VmId::generate(), 0, 1);
        let changes: [fn(&mut DiskRecord); 6] = [
            |r| r.kind = BackupKind::Incremental,
            |r| r.image.file = "../full-20251004-000001.qcow2".into(),
            |r| r.checksums.file = "full-20251004-000002.crc".into(),
            |r| r.cluster_size = 65535,
            |r| r.base_token = Some(ChangeToken::parse("t").unwrap()),
            |r| {
                *r = child(&r.clone(), 2, BackupKind::Incremental);
                r.parent.as_mut().unwrap().file = "json:{}".into();
            },
        ];
        for change in changes {
            let mut bad = full.clone();
            change(&mut bad);
            let error = DiskRecord::decode("x", &bad.encode().unwrap()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
        }
    }

    proptest! {
        #[test]
        fn reading_garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(DiskRecord::decode("x", &bytes).is_err());
        }
    }
}
