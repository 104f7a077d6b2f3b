//! Bringing the registry to what the files declare.
//!
//! Parse all; then validate all, each new disk opened and locked; any problem so far changes
//! nothing. Then apply: what is gone drains, what changed is replaced where nobody uses it, what is
//! new appears. What cannot be applied to one export (it is in use, it still drains) is refused for
//! that export alone, with a reason that stays to be asked for until a reload succeeds.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sendense_nbd::registry::{Entry, Removal};

use super::config::{self, Configuration};
use super::ini::Problem;
use super::keys::{Declared, DeclaredFormat};
use super::open::{self, OpenDisks, Opened};
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
}

#[derive(Debug)]
struct Live {
    declared: Declared,
    opened: Opened,
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
        let plan = self.plan(state, wanted.exports)?;
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
        for declared in plan.changed {
            let name = declared.name.clone();
            match self.replace(state, declared, &plan.writers) {
                Ok(()) => report.changed.push(name),
                Err(why) => report.refused.push((name, why)),
            }
        }
        for (declared, opened) in plan.new {
            let name = declared.name.clone();
            match self.declare(state, declared, opened) {
                Ok(()) => report.added.push(name),
                Err(why) => report.refused.push((name, why)),
            }
        }
        state.refused = report.refused.iter().cloned().collect();
        Ok(report)
    }

    /// Compares, and opens what is new. Nothing is changed.
    fn plan(&self, state: &State, wanted: Vec<Declared>) -> Result<Plan, Vec<Problem>> {
        let mut plan = Plan {
            writers: writers(&wanted),
            ..Plan::default()
        };
        let mut disks = state.disks();
        let mut problems = Vec::new();
        let names: Vec<String> = wanted.iter().map(|d| d.name.clone()).collect();
        plan.gone = state
            .live
            .keys()
            .filter(|n| !names.contains(n))
            .cloned()
            .collect();
        for declared in wanted {
            let mut problem = |text: String| {
                problems.push(Problem {
                    file: declared.file.clone(),
                    line: declared.line,
                    text: format!("[{}]: {text}", declared.name),
                });
            };
            match state.live.get(&declared.name) {
                Some(live) if same(&live.declared, &declared) => plan.same += 1,
                Some(_) => {
                    if let Err(why) = look(&declared) {
                        problem(why);
                    }
                    plan.changed.push(declared);
                }
                None if self.registry.get(&declared.name).is_some() => {
                    problem("an export of this name exists that no file declares".into());
                }
                None => {
                    let writable = plan.writers.get(&declared.path).copied().unwrap_or(false);
                    match open::open(&declared, &mut disks, writable) {
                        Ok(opened) => plan.new.push((declared, opened)),
                        Err(why) => problem(why),
                    }
                }
            }
        }
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(problems)
        }
    }

    /// Takes the old one away where nobody uses it, and puts the new one there; where that fails,
    /// the old one is back.
    fn replace(
        &self,
        state: &mut State,
        declared: Declared,
        writers: &HashMap<String, bool>,
    ) -> Result<(), String> {
        let name = declared.name.clone();
        self.registry
            .remove(&name, Removal::Safe)
            .map_err(|e| format!("its settings were changed, but {e}"))?;
        let old = state.live.remove(&name).map(|old| old.declared);
        // The old disk is closed and unlocked now, unless another export shares it.
        let mut disks = state.disks();
        let writable = writers.get(&declared.path).copied().unwrap_or(false);
        let new = open::open(&declared, &mut disks, writable)
            .and_then(|opened| self.declare(state, declared, opened));
        let Err(why) = new else {
            return Ok(());
        };
        let Some(old) = old else {
            return Err(why);
        };
        let writable = !old.readonly;
        match open::open(&old, &mut state.disks(), writable)
            .and_then(|opened| self.declare(state, old, opened))
        {
            Ok(()) => Err(why),
            Err(lost) => Err(format!(
                "{why}; the old one could not be opened again: {lost}"
            )),
        }
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

impl State {
    /// The raw disks that are served.
    fn disks(&self) -> OpenDisks {
        let mut disks = OpenDisks::default();
        for live in self.live.values() {
            if let Some((file, writable)) = &live.opened.disk {
                disks.keep(&live.declared.path, file.clone(), *writable);
            }
        }
        disks
    }
}

/// What a reload is going to do.
#[derive(Debug, Default)]
struct Plan {
    same: usize,
    gone: Vec<String>,
    changed: Vec<Declared>,
    new: Vec<(Declared, Opened)>,
    /// For each raw disk, whether any export of it writes.
    writers: HashMap<String, bool>,
}

fn writers(wanted: &[Declared]) -> HashMap<String, bool> {
    let mut writers = HashMap::new();
    for d in wanted.iter().filter(|d| d.format == DeclaredFormat::Raw) {
        *writers.entry(d.path.clone()).or_insert(false) |= !d.readonly;
    }
    writers
}

/// Whether what is served would be the same; where it is written down does not matter.
fn same(a: &Declared, b: &Declared) -> bool {
    let plain = |d: &Declared| Declared {
        file: String::new(),
        line: 0,
        format_stated: false,
        ..d.clone()
    };
    plain(a) == plain(b)
}

/// What can be said about a changed declaration without a lock that its old self may hold.
fn look(d: &Declared) -> Result<(), String> {
    std::fs::metadata(&d.path)
        .map(drop)
        .map_err(|e| format!("{}: {e}", d.path))
}
