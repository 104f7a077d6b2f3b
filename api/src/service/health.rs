//! How the daemon is.

use sendense_engine::io::IoEngine;

use super::Service;
use crate::store::StoreError;
use crate::types::Health;

impl Service {
    /// Version, commit and the way to storage, and what a person should look at.
    pub async fn health(&self) -> Health {
        let problems = problems(self.store().ailing_points().await);
        Health {
            status: if problems.is_empty() {
                "ok"
            } else {
                "degraded"
            }
            .to_owned(),
            problems,
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

fn problems(ailing: Result<(u64, u64), StoreError>) -> Vec<String> {
    let (damaged, missing) = match ailing {
        Ok(counts) => counts,
        Err(e) => {
            tracing::error!("{e}");
            return vec!["the catalog cannot be read".to_owned()];
        }
    };
    let told = |n: u64, one: &str, several: &str| match n {
        0 => None,
        1 => Some(format!("1 restore point {one}")),
        n => Some(format!("{n} restore points {several}")),
    };
    [
        told(damaged, "is damaged", "are damaged"),
        told(missing, "has lost its files", "have lost their files"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
