//! The shapes of the REST contract, shared by the daemon and its clients.
//!
//! Fields may be added here, none is ever renamed. Requests refuse unknown fields, answers do not:
//! an older client reads a newer daemon.

mod backup;
mod chain;
mod job;
mod problem;
mod restore;
mod server;
mod time;
mod vm;

pub use backup::{
    Backup, BackupDisk, BackupList, BackupType, Change, Complete, CompleteDisk, Deletion,
    DeletionItem, JobStatus, Phase, StartBackup, StartDisk,
};
pub use chain::{Chain, ChainPoint, DiskChains, VmChains};
pub use job::{Job, JobDisk, JobKind, JobList};
pub use problem::{Code, Problem};
pub use restore::{
    ImageFormat, RestoreDisk, RestoreExport, RestoreExportList, RestoreExportRequest,
};
pub use server::{
    Export, ExportList, Health, Quarantine, QuarantineItem, Reload, Repository, RepositoryList,
};
pub use time::Time;
pub use vm::{NewVm, NewVmDisk, Vm, VmDisk, VmList};
