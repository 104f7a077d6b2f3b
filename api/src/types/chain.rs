//! Chains: per disk, a full and everything that builds on it.

use serde::{Deserialize, Serialize};

use super::{BackupType, Time};

/// `GET /backup/chain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmChains {
    /// The machine.
    pub vm_id: String,
    /// Its name.
    pub vm_name: String,
    /// Its disks, by number.
    pub disks: Vec<DiskChains>,
}

/// The chains of one disk. The first fields mirror the current chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskChains {
    /// The disk's number.
    pub disk_id: u32,
    /// The current chain's full.
    pub full_backup_id: Option<String>,
    /// The current chain's head: what the next incremental builds on.
    pub latest_backup_id: Option<String>,
    /// Points in the current chain.
    pub total_backups: u64,
    /// Bytes of the current chain's images.
    pub total_size_bytes: u64,
    /// All chains, newest first.
    pub chains: Vec<Chain>,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its id.
    pub chain_id: String,
    /// The repository's name.
    pub repository: String,
    /// Whether the next incremental in this repository goes here.
    pub current: bool,
    /// Its points, oldest first.
    pub backups: Vec<ChainPoint>,
}

/// One point of a chain, as seen from one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainPoint {
    /// The point.
    pub backup_id: String,
    /// Its kind for this disk.
    pub backup_type: BackupType,
    /// What it builds on.
    pub parent_backup_id: Option<String>,
    /// Its place in the order of this disk's points.
    pub sequence: u64,
    /// The disk's size then.
    pub size_bytes: u64,
    /// Bytes of the image file.
    pub stored_bytes: u64,
    /// The change token that it became.
    pub change_id: Option<String>,
    /// When it came to be.
    pub sealed_at: Option<Time>,
    /// When its checksums were last found right.
    pub verified_at: Option<Time>,
}
