//! Bringing the registry to what the files declare.
//!
//! Parse all; then validate all, what is new and what changed, each disk opened and locked where
//! nothing of ours is in the way; any problem so far changes nothing. Then apply: what is gone
//! drains, what changed is replaced where nobody uses it, what is new appears. What cannot be
//! applied to one export for who uses it or its disk now (it is in use, it still drains, another
//! process took the disk) is refused for that export alone, with a reason that stays to be asked
//! for until a reload succeeds; the old one goes on.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sendense_nbd::registry::{Entry, Removal, RemoveError};

use super::config::{self, Configuration};
use super::disks::{DiskId, OpenDisks};
use super::ini::Problem;
use super::keys::Declared;
use super::open::{self, Opened, Prepared};
use super::plan::{Plan, Reopened};
use super::rules::{self, Rule};
use crate::plane::ExportRegistry;

/// The exports that files declare, in one registry with all others.
#[derive(Debug)]
pub struct DeclaredExports {
    registry: Arc<ExportRegistry>,
    rules: Option<Vec<Rule>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<String, Live>,
    refused: BTreeMap<String, String>,
    failed: Vec<Problem>,
    disks: OpenDisks,
}

/// An export as it is served.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) declared: Declared,
    pub(super) opened: Opened,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// Exports that appeared.
    pub added: Vec<String>,
    /// Exports that take no new clients; those that they have may finish.
    pub removed: Vec<String>,
    /// Exports that were replaced.
    pub changed: Vec<String>,
    /// Exports that stayed as they were, by number.
    pub unchanged: usize,
    /// Exports to which the files' word could not be applied, and why.
    pub refused: Vec<(String, String)>,
    /// Keys that were accepted but have no effect here.
    pub notes: Vec<Problem>,
}

/// One declared export as it is served now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredStatus {
    /// What is served.
    pub declared: Declared,
    /// Why the files' newer word about it was not applied.
    pub refused: Option<String>,
}

impl DeclaredExports {
    /// None yet.
    pub fn new(registry: Arc<ExportRegistry>) -> Self {
        Self {
            registry,
            rules: None,
            state: Mutex::default(),
        }
    }

    /// Over TLS only clients whose certificate a rule names may open what the rule covers.
    #[must_use]
    pub fn with_rules(mut self, rules: Vec<Rule>) -> Self {
        self.rules = Some(rules);
        self
    }

    /// Reads the configuration and applies it. An error has changed nothing. Blocking.
    pub fn reload(&self, file: &Path) -> Result<ReloadReport, Vec<Problem>> {
        let result = config::read(file);
        let mut state = self.lock();
        let result = result.and_then(|wanted| self.apply(&mut state, wanted));
        state.failed = result.as_ref().err().cloned().unwrap_or_default();
        result
    }

    /// What is served, and what was refused for it.
    pub fn status(&self) -> Vec<DeclaredStatus> {
        let state = self.lock();
        let status = state.live.iter().map(|(name, live)| DeclaredStatus {
            declared: live.declared.clone(),
            refused: state.refused.get(name).cloned(),
        });
        status.collect()
    }

    /// Exports that the last good reload could not bring to what the files say, and why.
    pub fn refused(&self) -> Vec<(String, String)> {
        self.lock().refused.clone().into_iter().collect()
    }

    /// Why the last reload changed nothing; empty where it did not fail.
    pub fn last_problems(&self) -> Vec<Problem> {
        self.lock().failed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(
        &self,
        state: &mut State,
        wanted: Configuration,
    ) -> Result<ReloadReport, Vec<Problem>> {
        let plan = Plan::make(
            &self.registry,
            &state.live,
            &mut state.disks,
            wanted.exports,
        )?;
        let mut report = ReloadReport {
            unchanged: plan.same,
            notes: wanted.notes,
            ..ReloadReport::default()
        };
        state.refused.clear();
        for name in plan.gone {
            // An export that somebody else took away already is gone all the same.
            drop(self.registry.remove(&name, Removal::Drain));
            state.live.remove(&name);
            report.removed.push(name);
        }
        for (declared, opened) in plan.changed {
            let name = declared.name.clone();
            match self.replace(state, declared, opened) {
                Ok(()) => report.changed.push(name),
                Err(why) => report.refused.push((name, why)),
            }
        }
        for (_, exports) in plan.reopened {
            self.reopen(state, exports, &plan.writers, &mut report);
        }
        for (declared, prepared) in plan.new {
            let name = declared.name.clone();
            let opened = match prepared {
                Prepared::Ready(opened) => Ok(opened),
                Prepared::Later(_) => {
                    let writable = Plan::writes(&plan.writers, &declared);
                    open::open(&declared, &mut state.disks, writable)
                }
            };
            match opened.and_then(|opened| self.declare(state, declared, opened)) {
                Ok(()) => report.added.push(name),
                Err(why) => report.refused.push((name, why)),
            }
        }
        report.changed.sort();
        state.refused = report.refused.iter().cloned().collect();
        Ok(report)
    }

    /// Takes an export away where nobody uses it.
    fn take(&self, state: &mut State, name: &str) -> Result<Option<Live>, String> {
        match self.registry.remove(name, Removal::Safe) {
            // An export that somebody else took away is not in use, either.
            Ok(_) | Err(RemoveError::Unknown) => Ok(state.live.remove(name)),
            Err(e) => Err(format!("its settings were changed, but {e}")),
        }
    }

    /// Puts the new one, which is open, in the place of the old one where nobody uses that.
    fn replace(&self, state: &mut State, declared: Declared, opened: Opened) -> Result<(), String> {
        let old = self.take(state, &declared.name)?;
        let Err(why) = self.declare(state, declared, opened) else {
            return Ok(());
        };
        if let Some(old) = old {
            // It was never closed.
            self.declare(state, old.declared, old.opened)
                .map_err(|lost| format!("{why}; the old one did not come back: {lost}"))?;
        }
        Err(why)
    }

    /// Closes exports of one disk that nobody uses, and opens them anew; those for which that
    /// fails are opened again as they were.
    fn reopen(
        &self,
        state: &mut State,
        exports: Vec<Reopened>,
        writers: &HashMap<DiskId, bool>,
        report: &mut ReloadReport,
    ) {
        let mut closed = Vec::new();
        for export in exports {
            match self.take(state, &export.declared.name) {
                // Dropping what was open closes and unlocks it.
                Ok(old) => closed.push((export, old.map(|old| old.declared))),
                Err(_) if export.same => {}
                Err(why) => report.refused.push((export.declared.name, why)),
            }
        }
        let mut failed = Vec::new();
        for (Reopened { declared, same }, old) in closed {
            let name = declared.name.clone();
            let writable = Plan::writes(writers, &declared);
            match self.open(state, declared, writable) {
                Ok(()) if same => {}
                Ok(()) => report.changed.push(name),
                Err(why) => failed.push((name, same, old, why)),
            }
        }
        for (name, same, old, why) in failed {
            let back = old.map_or(Ok(()), |old| {
                let writable = !old.readonly;
                self.open(state, old, writable)
            });
            match back {
                Ok(()) if same => {}
                Ok(()) => report.refused.push((name, why)),
                Err(lost) => {
                    let why = format!("{why}; the old one could not be opened again: {lost}");
                    report.refused.push((name, why));
                }
            }
        }
    }

    fn open(&self, state: &mut State, declared: Declared, writable: bool) -> Result<(), String> {
        let opened = open::open(&declared, &mut state.disks, writable)?;
        self.declare(state, declared, opened)
    }

    fn declare(&self, state: &mut State, declared: Declared, opened: Opened) -> Result<(), String> {
        let entry = Entry {
            description: declared.description.clone().unwrap_or_default(),
            listed: declared.listed,
            max_connections: declared
                .maxconnections
                .map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            require_tls: declared.force_tls,
            subjects: self
                .rules
                .as_ref()
                .map(|rules| rules::subjects(rules, &declared.name)),
            local_passes: true,
            ..Entry::new(opened.source.clone())
        };
        self.registry
            .declare(&declared.name, entry)
            .map_err(|e| e.to_string())?;
        state
            .live
            .insert(declared.name.clone(), Live { declared, opened });
        Ok(())
    }
}
