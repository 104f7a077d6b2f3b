//! The receiving end of one disk: the image that it becomes and what must be sent for it.

use std::sync::Arc;

use sendense_engine::chain::Chain;
use sendense_engine::ingest::{CoverageRule, Ingest, IngestOptions, Parent};
use sendense_engine::repository::{BackupKind, Growing};
use sendense_formats::ClusterSize;
use sendense_formats::qcow2::{Backing, CreateOptions};

use super::plan::PlanDisk;
use crate::service::Result;

/// The ingest of a disk, and how many bytes are expected.
///
/// A full must be sent whole unless its start said `sparse`; a declared list exactly as declared;
/// an incremental without a list is what its mover makes of it.
pub(super) fn create(
    disk: &PlanDisk,
    growing: &Growing,
    cluster: ClusterSize,
    parent: Option<Arc<Chain>>,
) -> Result<(Arc<Ingest>, u64)> {
    let create = CreateOptions {
        virtual_size: disk.size,
        cluster,
        backing: growing.backing().map(|name| Backing {
            name: name.to_owned(),
            format: Some("qcow2".to_owned()),
        }),
    };
    let (coverage, total) = match (growing.decision().kind, &disk.changes) {
        (BackupKind::Full, _) if disk.sparse => (CoverageRule::Free, disk.size),
        (BackupKind::Full, _) => (CoverageRule::Whole, disk.size),
        (_, Some(changes)) => {
            let total = changes.total();
            (CoverageRule::Declared(changes.clone()), total)
        }
        // A comparing pull reads everything and sends what differs; a mover knows by itself.
        (_, None) => (CoverageRule::Free, disk.size),
    };
    let options = IngestOptions {
        parent: parent.map(|chain| Arc::new(chain) as Arc<dyn Parent>),
        coverage,
        label: format!("disk {} of {}", disk.number, growing.backup_id()),
        ..IngestOptions::new(Arc::clone(growing.file()), create)
    };
    Ok((Ingest::create(options)?, total))
}
