//! Repositories: where restore points live, how they appear, and how they go.
//!
//! The rules that everything here serves:
//! - A restore point exists exactly when its manifest does. One rename makes it, with all of its
//!   disks; one rename ends it.
//! - Chains are followed by id, from manifest to sidecar to parent. A name inside of an image is
//!   compared, never followed.
//! - Nothing that is not sealed is a parent, and order is a sequence number, never a clock.
//! - The manifests are the truth; every other catalog can be made from them.

mod adopt;
mod backup_id;
mod book;
mod checksums;
mod commit;
mod delete;
mod export_name;
mod growing;
pub mod guard;
mod ids;
mod layers;
mod layout;
#[cfg(test)]
mod local_tests;
mod manifest;
mod notes;
mod points;
mod quarantine;
mod recovery;
mod sealed_json;
mod shared;
mod sidecar;
mod space;
mod state_log;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod text_id;

pub use backup_id::BackupId;
pub use checksums::{ChecksumFile, SumSource, write_checksums};
pub use commit::PreparedDisk;
pub use delete::{DeletePoint, DeletedPoint, Deletion, MovedHead};
pub use export_name::{ExportName, ExportSecret};
pub use growing::{BeginDisk, Growing};
pub use ids::{
    BackupKind, ChangeToken, ContextId, DeviceKey, DiskNumber, RepositoryId, Sequence, VmId,
};
pub use layers::{LayerChecksums, LayerFile};
pub use layout::{
    FoundInDisk, FoundInPoints, META_DIR, Part, PartialName, QUARANTINE_DIR, REPOSITORY_FILE, Stem,
    deleting_path, disk_dir, disk_name, manifest_path, parse_disk_name, points_dir, state_path,
    vm_dir,
};
pub use manifest::{DiskEntry, MAX_MANIFEST_BYTES, PointManifest, kind_together};
pub use points::{DamagedPoint, DiskChain, RestorePoint, VmPoints};
pub use quarantine::QuarantineFind;
pub use recovery::{Found, LOCK_WAIT, RecoveryReport};
pub use sidecar::{ChecksumsRef, Counts, DiskRecord, ImageRef, MAX_SIDECAR_BYTES, ParentLink};
pub use space::{SpaceState, SpaceVerdict};
pub use state_log::{MAX_STATE_BYTES, StateEntry, StateEvent, StateLog};
pub use store::{Repository, RepositoryOptions};
