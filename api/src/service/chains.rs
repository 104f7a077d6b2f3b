//! Open chains: one per disk of a restore point, shared by all who read it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use sendense_engine::chain::{Chain, ChainOptions};
use sendense_engine::repository::{BackupId, DiskNumber, LayerChecksums, Repository, VmId};

use super::{Result, Service, blocking, lock};

/// The chains that are open now.
#[derive(Debug, Default)]
pub(super) struct Chains {
    open: Mutex<HashMap<(BackupId, DiskNumber), Weak<Chain>>>,
}

impl Service {
    /// A disk of a restore point, to read. Every cluster is compared with its checksum.
    pub(super) async fn chain(
        &self,
        repository: &Repository,
        vm: VmId,
        id: &BackupId,
        disk: DiskNumber,
    ) -> Result<Arc<Chain>> {
        let key = (id.clone(), disk);
        if let Some(chain) = lock(&self.inner.chains.open)
            .get(&key)
            .and_then(Weak::upgrade)
        {
            return Ok(chain);
        }
        let (repository, id) = (repository.clone(), id.clone());
        let chain = blocking(move || open(&repository, vm, &id, disk)).await?;
        let mut open = lock(&self.inner.chains.open);
        // Two who opened it at once share the first.
        if let Some(first) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(first);
        }
        open.retain(|_, chain| chain.strong_count() > 0);
        open.insert(key, Arc::downgrade(&chain));
        Ok(chain)
    }
}

fn open(repository: &Repository, vm: VmId, id: &BackupId, disk: DiskNumber) -> Result<Arc<Chain>> {
    let layers = repository.layers(vm, id, disk)?;
    let options = ChainOptions {
        checksums: Some(Arc::new(LayerChecksums::new(&layers))),
        ..ChainOptions::default()
    };
    Ok(Chain::open(layers.iter(), options)?)
}
