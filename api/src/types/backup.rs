//! Backups: start, complete, show, list, delete, verify.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ImageFormat, Time};

/// The kind of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupType {
    /// The whole disk, no parent.
    Full,
    /// What changed since the newest point.
    Incremental,
    /// What changed since the chain's full.
    Differential,
}

impl BackupType {
    /// The word in JSON, catalog and command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }

    /// The short form in export names.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incr",
            Self::Differential => "diff",
        }
    }
}

impl fmt::Display for BackupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BackupType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "full" => Ok(Self::Full),
            "incremental" => Ok(Self::Incremental),
            "differential" => Ok(Self::Differential),
            _ => Err(format!(
                "{s:?} is no backup type: full, incremental or differential"
            )),
        }
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Not started yet.
    Pending,
    /// At work; the phase says where.
    Running,
    /// Done; a backup is sealed.
    Completed,
    /// Ended without a result; the error says why.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
}

impl JobStatus {
    /// The word in JSON, catalog and command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will happen.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobStatus {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "pending" => Ok(Self::Pending),
            "running" => Ok(Self::Running),
            "completed" => Ok(Self::Completed),
            "failed" => Ok(Self::Failed),
            "cancelled" => Ok(Self::Cancelled),
            _ => Err(format!(
                "{s:?} is no state: pending, running, completed, failed or cancelled"
            )),
        }
    }
}

/// Where a running job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The export is open, nothing has come yet.
    Waiting,
    /// Bytes are coming in.
    Receiving,
    /// The daemon reads the source itself.
    Pulling,
    /// Frozen; metadata, checks, manifest and catalog are being written.
    Sealing,
    /// Bytes are going out to the target.
    Restoring,
    /// Checksums are being compared.
    Verifying,
    /// The daemon ended in the middle of it.
    Interrupted,
}

impl Phase {
    /// The word in JSON and catalog.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Receiving => "receiving",
            Self::Pulling => "pulling",
            Self::Sealing => "sealing",
            Self::Restoring => "restoring",
            Self::Verifying => "verifying",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        [
            Self::Waiting,
            Self::Receiving,
            Self::Pulling,
            Self::Sealing,
            Self::Restoring,
            Self::Verifying,
            Self::Interrupted,
        ]
        .into_iter()
        .find(|p| p.as_str() == s)
        .ok_or_else(|| format!("{s:?} is no phase"))
    }
}

/// One changed extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The first byte.
    pub offset: u64,
    /// Bytes, not 0.
    pub length: u64,
}

/// `POST /backup/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartBackup {
    /// The machine's name; either this or `vm_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_name: Option<String>,
    /// The machine's id; either this or `vm_name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// The kind that is wanted.
    pub backup_type: BackupType,
    /// Where it goes; `local` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Make a full where the wanted kind is not possible, instead of refusing.
    #[serde(default)]
    pub allow_full: bool,
    /// Bytes of a cluster of the images: a power of two, 65536 to 2097152; 65536 where it is left
    /// out. Each point of a chain may have its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// The disks; all that are registered where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<StartDisk>>,
}

/// One disk of [`StartBackup`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartDisk {
    /// The disk's number.
    pub disk_id: u32,
    /// The exact size in bytes; the last known one, or the source's own, where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The disk's identity; checked against what the number is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    /// `push`, `file:PATH` or `nbd:...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `raw`: the source's bytes are the disk, even where they look like an image in a format of
    /// its own, which is refused otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_format: Option<ImageFormat>,
    /// A push full of which unsent ranges are zero: nothing is known about them otherwise.
    #[serde(default)]
    pub sparse: bool,
    /// What the sent blocks are relative to; required for an incremental push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_change_id: Option<String>,
    /// What this point becomes, where it is known before (pulled sources).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
    /// The changed extents; the seal then demands exactly these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
}

/// `POST /backup/{id}/complete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Complete {
    /// The disks that are done; all of them where it is empty or left out.
    #[serde(default)]
    pub disks: Vec<CompleteDisk>,
}

/// One disk of [`Complete`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteDisk {
    /// The disk's number.
    pub disk_id: u32,
    /// The change token that this point becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_id: Option<String>,
}

/// A backup: a job while it runs, a restore point once it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id, which is also its job's.
    pub backup_id: String,
    /// The machine.
    pub vm_id: String,
    /// The machine's name at that time.
    pub vm_name: String,
    /// The repository's name.
    pub repository: String,
    /// What was asked.
    pub requested_type: BackupType,
    /// What is done. Full only where each disk is.
    pub backup_type: BackupType,
    /// Why what is done is what is done.
    pub reason: String,
    /// The state.
    pub status: JobStatus,
    /// Where a running job is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The point that the first disk builds on.
    pub parent_backup_id: Option<String>,
    /// Whether this start registered the machine.
    #[serde(default)]
    pub vm_created: bool,
    /// The disks, by number.
    pub disks: Vec<BackupDisk>,
    /// When the job was made.
    pub created_at: Time,
    /// When it began to run.
    pub started_at: Option<Time>,
    /// When it ended, however it ended.
    pub completed_at: Option<Time>,
    /// When the point came to be.
    pub sealed_at: Option<Time>,
    /// When its checksums were last found right.
    pub verified_at: Option<Time>,
    /// The sizes of the disks together.
    pub total_bytes: u64,
    /// Bytes that came in.
    pub bytes_transferred: u64,
    /// Bytes of the image files.
    pub stored_bytes: u64,
    /// Bytes that were zero and are not stored.
    pub zero_bytes: u64,
    /// Bytes of the disks that were sent, as data or as zero.
    pub covered_bytes: u64,
    /// The stable code of what went wrong.
    pub error_code: Option<String>,
    /// What went wrong.
    pub error_message: Option<String>,
    /// Whether the repository no longer holds its files.
    #[serde(default)]
    pub missing: bool,
    /// What is known to be wrong with its files: what the last verification found, or the last
    /// start of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// One disk of a [`Backup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDisk {
    /// Its number.
    pub disk_id: u32,
    /// Its exact size in bytes.
    pub size_bytes: u64,
    /// Bytes of a cluster of its image.
    #[serde(default)]
    pub cluster_size: u64,
    /// The identity that the number is bound to.
    pub device_key: String,
    /// What is done for this disk.
    pub backup_type: BackupType,
    /// Where its bytes come from.
    pub source: String,
    /// The point that it builds on.
    pub parent_backup_id: Option<String>,
    /// The export's name; without its secret once the job has ended.
    pub export_name: Option<String>,
    /// Where a mover writes to, the unix socket first. Empty once the job has ended.
    #[serde(default)]
    pub nbd_uris: Vec<String>,
    /// What the sent blocks are relative to.
    pub base_change_id: Option<String>,
    /// What this point became.
    pub change_id: Option<String>,
    /// Bytes that came in.
    pub bytes_transferred: u64,
    /// Bytes of the image file.
    pub stored_bytes: u64,
    /// Bytes that were zero and are not stored.
    pub zero_bytes: u64,
    /// Bytes that were sent, as data or as zero.
    pub covered_bytes: u64,
    /// Whether this disk is complete, though others may not be.
    #[serde(default)]
    pub complete: bool,
    /// The image's place within the repository.
    pub locator: Option<String>,
    /// The image's path on the daemon's host, for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// `GET /backup/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupList {
    /// One page, newest first.
    pub backups: Vec<Backup>,
    /// Pass it as `cursor=` for the next page; none on the last.
    pub next_cursor: Option<String>,
}

/// What `DELETE /backup/{id}` removed, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Whether this only says what would happen.
    pub dry_run: bool,
    /// The points, children first.
    pub deleted: Vec<DeletionItem>,
    /// Bytes that this frees.
    pub freed_bytes: u64,
    /// What the operator has to know about the next backup.
    pub warnings: Vec<String>,
}

/// One point of a [`Deletion`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionItem {
    /// The point.
    pub backup_id: String,
    /// Bytes of its files.
    pub bytes: u64,
}
