//! Restores: a whole disk somewhere, or an export at once.

use serde::{Deserialize, Serialize};

use super::Time;

/// How a restored file is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Byte for byte, holes kept.
    #[default]
    Raw,
    /// One QCOW2 file without a parent.
    Qcow2,
}

/// `POST /restore/disk`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDisk {
    /// The restore point.
    pub backup_id: String,
    /// The disk.
    pub disk_id: u32,
    /// `file:PATH` on the daemon's host, beneath `targets.allow`, or an NBD URI that it lists.
    pub target: String,
    /// The layout of a file.
    #[serde(default)]
    pub format: ImageFormat,
    /// Write over what is there: required for a block device, an NBD target and an existing file.
    #[serde(default)]
    pub overwrite: bool,
}

/// `POST /restore/export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreExportRequest {
    /// The restore point.
    pub backup_id: String,
    /// The disk.
    pub disk_id: u32,
    /// Seconds that it lives without a client; an hour where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// A read-only NBD export of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreExport {
    /// Its id.
    pub export_id: String,
    /// The restore point.
    pub backup_id: String,
    /// The disk.
    pub disk_id: u32,
    /// The disk's size.
    pub size_bytes: u64,
    /// The export's name, a capability.
    pub export_name: String,
    /// Where clients connect to, the unix socket first.
    pub nbd_uris: Vec<String>,
    /// Clients that are connected now.
    pub connections: u64,
    /// When it goes away, unless a client is connected.
    pub expires_at: Time,
}

/// `GET /restore/exports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreExportList {
    /// All of them, oldest first.
    pub exports: Vec<RestoreExport>,
}
