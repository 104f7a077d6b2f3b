//! The daemon itself: health, repositories, declared exports.

use serde::{Deserialize, Serialize};

use super::{BackupType, Time};

/// `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`; `degraded` where there are problems.
    pub status: String,
    /// What a person should look at. Names nothing: everybody may read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The daemon's version.
    pub version: String,
    /// The commit that it was built from, where the build knew.
    pub commit: Option<String>,
    /// How storage is reached: `uring` or `plain`.
    pub io_engine: String,
    /// When the daemon started.
    pub started_at: Time,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its id, written into the repository itself.
    pub repository_id: String,
    /// Its name.
    pub name: String,
    /// `local`.
    pub repository_type: String,
    /// Whether backups may go there.
    pub enabled: bool,
    /// Capacity in bytes.
    pub total_size_bytes: u64,
    /// Bytes that are still free.
    pub available_size_bytes: u64,
    /// Restore points in it.
    pub backup_count: u64,
    /// Where it is on the daemon's host, for admins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What was wrong at the last look, if anything.
    pub problems: Vec<String>,
}

/// `GET /repositories`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryList {
    /// All of them, by name.
    pub repositories: Vec<Repository>,
}

/// `GET /repositories/{name}/quarantine`: finished files that no restore point names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The repository.
    pub repository: String,
    /// What lies there, by machine, disk and name.
    pub finds: Vec<QuarantineItem>,
}

/// A disk of a backup in quarantine, or a file there of which nobody knows more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineItem {
    /// The backup that it was; none where no sidecar says so.
    pub backup_id: Option<String>,
    /// The machine.
    pub vm_id: String,
    /// What the machine was called then.
    pub vm_name: Option<String>,
    /// The disk.
    pub disk_id: u32,
    /// What it was.
    pub backup_type: Option<BackupType>,
    /// The disk's size in bytes.
    pub size_bytes: Option<u64>,
    /// Bytes of its files.
    pub bytes: u64,
    /// What it was built on.
    pub parent_backup_id: Option<String>,
    /// Where it is, relative to the repository.
    pub locator: String,
    /// Whether its backup becomes a restore point by `adopt`, if its bytes are what was sealed.
    pub adoptable: bool,
    /// Why not.
    pub why_not: Option<String>,
}

/// A declared NBD export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Clients that are connected now.
    pub connections: u64,
}

/// `GET /exports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportList {
    /// The exports that LIST shows, by name.
    pub exports: Vec<Export>,
}

/// `POST /exports/reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Exports that came.
    pub added: Vec<String>,
    /// Exports that went; connected clients finish.
    pub removed: Vec<String>,
    /// Exports that were replaced.
    pub changed: Vec<String>,
    /// Exports that stayed as they are.
    pub unchanged: u64,
    /// Whether the certificates of the NBD port were read again; new connections see those.
    #[serde(default)]
    pub certificates: bool,
    /// Exports to which the files' word could not be applied, and why.
    #[serde(default)]
    pub refused: Vec<String>,
    /// Keys that were accepted but have no effect here.
    #[serde(default)]
    pub notes: Vec<String>,
}
