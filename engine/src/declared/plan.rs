//! What a reload is going to do: everything is checked here, and nothing is changed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::disks::{DiskId, OpenDisks};
use super::ini::Problem;
use super::keys::{Declared, DeclaredFormat};
use super::open::{self, Opened, Prepared};
use super::reload::Live;
use crate::plane::ExportRegistry;

/// What a reload is going to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Exports that stay as they are.
    pub(super) same: usize,
    /// Exports that drain.
    pub(super) gone: Vec<String>,
    /// Exports that are replaced by what is open already.
    pub(super) changed: Vec<(Declared, Opened)>,
    /// Exports that have to be closed before they can be opened anew, those of one disk together.
    pub(super) reopened: Vec<(DiskId, Vec<Reopened>)>,
    /// Exports that appear.
    pub(super) new: Vec<(Declared, Prepared)>,
    /// For each raw disk, whether any export of it writes.
    pub(super) writers: HashMap<DiskId, bool>,
}

/// An export that has to be closed first.
#[derive(Debug)]
pub(super) struct Reopened {
    pub(super) declared: Declared,
    /// Its own declaration is as it was: only how its disk is open has to change.
    pub(super) same: bool,
}

impl Plan {
    /// Compares, and looks at what is new or changed. All problems are told.
    pub(super) fn make(
        registry: &ExportRegistry,
        live: &BTreeMap<String, Live>,
        disks: &mut OpenDisks,
        wanted: Vec<Declared>,
    ) -> Result<Self, Vec<Problem>> {
        let mut plan = Self {
            writers: writers(&wanted),
            ..Self::default()
        };
        plan.gone = live
            .keys()
            .filter(|name| !wanted.iter().any(|d| d.name == **name))
            .cloned()
            .collect();
        let mut problems = Vec::new();
        for declared in wanted {
            if let Err(text) = plan.place(registry, live, disks, &declared) {
                problems.push(Problem {
                    text: format!("[{}]: {text}", declared.name),
                    file: declared.file,
                    line: declared.line,
                });
            }
        }
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(problems)
        }
    }

    /// Whether any export of the disk at this path writes.
    pub(super) fn writes(writers: &HashMap<DiskId, bool>, declared: &Declared) -> bool {
        DiskId::of(Path::new(&declared.path))
            .ok()
            .and_then(|id| writers.get(&id).copied())
            .unwrap_or(!declared.readonly)
    }

    fn place(
        &mut self,
        registry: &ExportRegistry,
        live: &BTreeMap<String, Live>,
        disks: &mut OpenDisks,
        declared: &Declared,
    ) -> Result<(), String> {
        let now = live.get(&declared.name);
        if let Some(now) = now.filter(|now| same(&now.declared, declared)) {
            self.same += 1;
            if let Some((id, writable)) = now.opened.disk
                && self
                    .writers
                    .get(&id)
                    .is_some_and(|wanted| *wanted != writable)
            {
                self.reopen(id, declared, true);
            }
            return Ok(());
        }
        if now.is_none() && registry.get(&declared.name).is_some() {
            return Err("an export of this name exists that no file declares".into());
        }
        let writable = Self::writes(&self.writers, declared);
        match (now, open::prepare(declared, disks, writable)?) {
            (None, prepared) => self.new.push((declared.clone(), prepared)),
            (Some(_), Prepared::Ready(opened)) => self.changed.push((declared.clone(), opened)),
            (Some(_), Prepared::Later(id)) => self.reopen(id, declared, false),
        }
        Ok(())
    }

    fn reopen(&mut self, id: DiskId, declared: &Declared, same: bool) {
        let export = Reopened {
            declared: declared.clone(),
            same,
        };
        match self.reopened.iter_mut().find(|(of, _)| *of == id) {
            Some((_, exports)) => exports.push(export),
            None => self.reopened.push((id, vec![export])),
        }
    }
}

fn writers(wanted: &[Declared]) -> HashMap<DiskId, bool> {
    let mut writers = HashMap::new();
    for d in wanted.iter().filter(|d| d.format == DeclaredFormat::Raw) {
        // A disk that is not there is told of where it is looked at.
        if let Ok(id) = DiskId::of(Path::new(&d.path)) {
            *writers.entry(id).or_insert(false) |= !d.readonly;
        }
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
