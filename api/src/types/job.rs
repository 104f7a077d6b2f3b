//! Jobs: everything that takes time.

use serde::{Deserialize, Serialize};

use super::{JobStatus, Phase, Time};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Makes a restore point; the job's id is the backup's.
    Backup,
    /// Writes a disk of a restore point somewhere.
    Restore,
    /// Compares checksums.
    Verify,
}

impl JobKind {
    /// The word in JSON and catalog.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
        }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// What it does.
    pub kind: JobKind,
    /// The state.
    pub status: JobStatus,
    /// Where a running job is.
    pub phase: Option<Phase>,
    /// The backup that it makes, reads or checks.
    pub backup_id: String,
    /// The machine's name.
    pub vm_name: String,
    /// Where a restore writes to.
    pub target: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it began to run.
    pub started_at: Option<Time>,
    /// When it ended.
    pub completed_at: Option<Time>,
    /// The stable code of what went wrong.
    pub error_code: Option<String>,
    /// What went wrong.
    pub error_message: Option<String>,
    /// Progress, per disk.
    pub disks: Vec<JobDisk>,
}

/// Progress of one disk. The engine counts; nothing here is estimated but `eta_seconds`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDisk {
    /// The disk's number.
    pub disk_id: u32,
    /// Bytes to do in all: the disk, or its declared changes.
    pub total_bytes: u64,
    /// Bytes that moved.
    pub bytes_transferred: u64,
    /// Bytes that were stored.
    pub stored_bytes: u64,
    /// Bytes that were zero.
    pub zero_bytes: u64,
    /// Bytes of the disk that are dealt with.
    pub covered_bytes: u64,
    /// Bytes per second since the first byte.
    pub rate_bps: u64,
    /// Seconds to go at that rate; none where nobody can know.
    pub eta_seconds: Option<u64>,
}

/// `GET /jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// One page, newest first.
    pub jobs: Vec<Job>,
    /// Pass it as `cursor=` for the next page; none on the last.
    pub next_cursor: Option<String>,
}
