//! How the daemon is.

use sendense_engine::io::IoEngine;

use super::Service;
use crate::types::Health;

impl Service {
    /// Version, commit and the way to storage.
    pub fn health(&self) -> Health {
        Health {
            status: "ok".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SENDENSE_COMMIT").map(str::to_owned),
            // One thread without its ring is worth knowing: the slowest is told.
            io_engine: if self.plane().engines().contains(&IoEngine::Plain) {
                "plain"
            } else {
                "uring"
            }
            .to_owned(),
            started_at: self.started_at(),
        }
    }
}
