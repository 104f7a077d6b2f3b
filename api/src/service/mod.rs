//! The rules, without HTTP and without SQL.

mod fault;
mod health;
mod names;
mod vms;

use std::sync::Arc;

pub use fault::{Fault, Result};
pub use vms::VmRef;

use crate::config::Config;
use crate::store::Store;
use crate::types::Time;

/// Everything that a rule needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    started_at: Time,
}

impl Service {
    /// The rules over an open catalog.
    pub fn new(config: Config, store: Store) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                started_at: Time::now(),
            }),
        }
    }

    /// The catalog.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// When the daemon started.
    pub fn started_at(&self) -> Time {
        self.inner.started_at
    }
}
