//! A VM's restore points as the manifests tell them: order, heads, chains, dependents.
//!
//! A view without I/O. Invariant: nothing here follows a name; parents are found by id, and a
//! lineage is given out only where each step fits the next (disk, device, token, order, file).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::backup_id::BackupId;
use super::guard::Head;
use super::ids::{BackupKind, DeviceKey, DiskNumber, Sequence};
use super::manifest::PointManifest;
use super::sidecar::DiskRecord;
use crate::{Error, ErrorKind, Result};

/// A sealed restore point with the records of its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its manifest.
    pub manifest: PointManifest,
    /// Its disks, in the manifest's order.
    pub disks: Vec<Arc<DiskRecord>>,
}

impl RestorePoint {
    /// Its id.
    pub fn id(&self) -> &BackupId {
        &self.manifest.backup_id
    }

    /// One of its disks.
    pub fn disk(&self, disk: DiskNumber) -> Option<&Arc<DiskRecord>> {
        self.disks.iter().find(|record| record.disk == disk)
    }

    /// The ids of the points that it builds on directly.
    pub fn parents(&self) -> BTreeSet<&BackupId> {
        let parents = self.disks.iter().filter_map(|d| d.parent.as_ref());
        parents.map(|p| &p.backup_id).collect()
    }
}

/// A restore point whose manifest or sidecar cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPoint {
    /// Its id, from the manifest's name.
    pub backup_id: BackupId,
    /// Its place in the order, where at least the manifest can be read.
    pub sequence: Option<Sequence>,
    /// What is wrong.
    pub why: String,
}

/// A full of one disk and everything that goes back to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChain {
    /// The members, oldest first; the first one is the full.
    pub members: Vec<Arc<DiskRecord>>,
    /// Whether the newest point of the disk is among them.
    pub current: bool,
}

/// All that is sealed of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmPoints {
    /// In order.
    points: Vec<Arc<RestorePoint>>,
    /// The place in `points`.
    index: HashMap<BackupId, usize>,
    damaged: Vec<DamagedPoint>,
}

impl VmPoints {
    /// The view of these points.
    pub fn new(mut points: Vec<Arc<RestorePoint>>, damaged: Vec<DamagedPoint>) -> Self {
        points.sort_by(|a, b| {
            let order = a.manifest.sequence.cmp(&b.manifest.sequence);
            order.then_with(|| a.id().cmp(b.id()))
        });
        let index = points.iter().enumerate();
        let index = index.map(|(at, point)| (point.id().clone(), at)).collect();
        Self {
            points,
            index,
            damaged,
        }
    }

    /// The points, oldest first.
    pub fn all(&self) -> &[Arc<RestorePoint>] {
        &self.points
    }

    /// The points that cannot be read.
    pub fn damaged(&self) -> &[DamagedPoint] {
        &self.damaged
    }

    /// One point; a damaged one says what is wrong with it.
    pub fn get(&self, id: &BackupId) -> Result<&Arc<RestorePoint>> {
        if let Some(point) = self.index.get(id).and_then(|at| self.points.get(*at)) {
            return Ok(point);
        }
        Err(match self.damaged.iter().find(|d| d.backup_id == *id) {
            Some(damaged) => Error::new(ErrorKind::Damaged, damaged.why.clone()),
            None => Error::new(ErrorKind::NotFound, format!("there is no {id}")),
        })
    }

    /// The records of one disk, oldest first.
    pub fn of_disk(&self, disk: DiskNumber) -> Vec<&Arc<DiskRecord>> {
        let mut records: Vec<_> = self.points.iter().filter_map(|p| p.disk(disk)).collect();
        records.sort_by_key(|r| r.sequence);
        records
    }

    /// The disk numbers that are taken, and the device that each is bound to.
    pub fn bindings(&self) -> Vec<(DiskNumber, DeviceKey)> {
        let mut bound = BTreeMap::new();
        // Newest last: where a hand-made repository contradicts itself, the newest counts.
        for record in self.points.iter().flat_map(|p| &p.disks) {
            bound.insert(record.disk, record.device_key.clone());
        }
        bound.into_iter().collect()
    }

    /// The number of a device: the one that it is bound to, here or in the caller's catalog
    /// (`known`), else one that no device has had.
    pub fn number_for(
        &self,
        device: &DeviceKey,
        known: &[(DiskNumber, DeviceKey)],
    ) -> Result<DiskNumber> {
        let mut bound = self.bindings();
        bound.extend_from_slice(known);
        if let Some((disk, _)) = bound.iter().find(|(_, key)| key == device) {
            return Ok(*disk);
        }
        let last = bound.iter().map(|(disk, _)| disk.get()).max();
        DiskNumber::new(last.map_or(0, |last| last + 1))
    }

    /// The newest sealed point of a disk.
    pub fn head(&self, disk: DiskNumber) -> Head<'_> {
        let with_disk = self.points.iter().rev().find(|p| p.disk(disk).is_some());
        let newest = with_disk.map(|p| p.manifest.sequence);
        // What cannot be read may be newer than what can.
        if let Some(damaged) = self
            .damaged
            .iter()
            .find(|d| d.sequence.is_none() || d.sequence > newest)
        {
            return Head::Unclear(&damaged.why);
        }
        let records = self.of_disk(disk);
        match records.as_slice() {
            [] => Head::None,
            [.., before, last] if before.sequence == last.sequence => {
                Head::Unclear("two restore points have the same place in the order")
            }
            [.., last] => Head::At(last),
        }
    }

    /// The place of the next point of a disk.
    pub fn next_disk_sequence(&self, disk: DiskNumber) -> Sequence {
        let last = self.of_disk(disk).last().map(|r| r.sequence);
        self.behind(last)
    }

    /// The place of the next point of the VM.
    pub fn next_sequence(&self) -> Sequence {
        self.behind(self.points.last().map(|p| p.manifest.sequence))
    }

    /// A point that cannot be read has taken a place, too.
    fn behind(&self, last: Option<Sequence>) -> Sequence {
        let unread = self.damaged.len() as u64;
        last.map_or(Sequence::FIRST, |last| last.plus(1))
            .plus(unread)
    }

    /// What one disk of a point is read from, newest first: itself, its parent, ... to the full.
    pub fn lineage(&self, id: &BackupId, disk: DiskNumber) -> Result<Vec<Arc<DiskRecord>>> {
        let mut record = self.record(id, disk)?;
        let mut layers = vec![Arc::clone(record)];
        while let Some(link) = &record.parent {
            let parent = self.record(&link.backup_id, disk).map_err(|e| {
                let at = format!("{} builds on what is not there", record.backup_id);
                Error::with(ErrorKind::Damaged, at, e)
            })?;
            if let Some(why) = misfit(record, parent) {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!(
                        "{} does not fit its parent {}: {why}",
                        record.backup_id, parent.backup_id
                    ),
                ));
            }
            // The order falls strictly, so this ends.
            record = parent;
            layers.push(Arc::clone(record));
        }
        Ok(layers)
    }

    /// The points whose disk is read through one of these, themselves among them, oldest first.
    pub fn reading(&self, disk: DiskNumber, layers: &[BackupId]) -> Vec<BackupId> {
        let mut found: Vec<BackupId> = Vec::new();
        // A parent comes before its children.
        for record in self.of_disk(disk) {
            let parent = record.parent.as_ref().map(|p| &p.backup_id);
            let through = parent.is_some_and(|p| found.contains(p));
            if through || layers.contains(&record.backup_id) {
                found.push(record.backup_id.clone());
            }
        }
        found
    }

    fn record(&self, id: &BackupId, disk: DiskNumber) -> Result<&Arc<DiskRecord>> {
        self.get(id)?
            .disk(disk)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{id} has no disk {disk}")))
    }

    /// The full that a record goes back to.
    pub fn full_of(&self, record: &DiskRecord) -> Result<Arc<DiskRecord>> {
        let mut lineage = self.lineage(&record.backup_id, record.disk)?;
        lineage
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Damaged, "a chain without a full".to_owned()))
    }

    /// The chains of one disk, oldest first. A point whose lineage is broken is in none.
    pub fn chains(&self, disk: DiskNumber) -> Vec<DiskChain> {
        let head = match self.head(disk) {
            Head::At(head) => Some(&head.backup_id),
            _ => None,
        };
        let mut chains: BTreeMap<Sequence, Vec<Arc<DiskRecord>>> = BTreeMap::new();
        // A parent comes before its children, so one pass knows which full each goes back to.
        let mut full_of: HashMap<&BackupId, Sequence> = HashMap::new();
        for record in self.of_disk(disk) {
            let full = match &record.parent {
                None => Some(record.sequence),
                Some(link) => self
                    .record(&link.backup_id, disk)
                    .ok()
                    .filter(|parent| misfit(record, parent).is_none())
                    .and_then(|parent| full_of.get(&parent.backup_id).copied()),
            };
            if let Some(full) = full {
                full_of.insert(&record.backup_id, full);
                let members = chains.entry(full).or_default();
                members.push(Arc::clone(record));
            }
        }
        let chain = |members: Vec<Arc<DiskRecord>>| DiskChain {
            current: members.iter().any(|r| Some(&r.backup_id) == head),
            members,
        };
        chains.into_values().map(chain).collect()
    }

    /// The points that cannot be read and may build on this one: all but those that are known to be
    /// older. Nobody can say of such a point what it builds on.
    pub fn unread_behind(&self, id: &BackupId) -> Vec<&DamagedPoint> {
        let own = match self.get(id) {
            Ok(point) => Some(point.manifest.sequence),
            Err(_) => {
                let own = self.damaged.iter().find(|d| d.backup_id == *id);
                own.and_then(|d| d.sequence)
            }
        };
        let may = |d: &&DamagedPoint| {
            let older = matches!((d.sequence, own), (Some(theirs), Some(own)) if theirs < own);
            d.backup_id != *id && !older
        };
        self.damaged.iter().filter(may).collect()
    }

    /// The points that can be read and build on any of these, directly or not, oldest first. Those
    /// that cannot be read are told by [`unread_behind`](Self::unread_behind).
    pub fn dependents(&self, ids: &[&BackupId]) -> Vec<Arc<RestorePoint>> {
        let mut needed: BTreeSet<&BackupId> = ids.iter().copied().collect();
        let mut found = Vec::new();
        // A parent is sealed before its children: one pass in order finds all.
        for point in &self.points {
            if point.parents().iter().any(|p| needed.contains(p)) {
                needed.insert(point.id());
                if !ids.contains(&point.id()) {
                    found.push(Arc::clone(point));
                }
            }
        }
        found
    }
}

/// Why a record cannot build on that parent.
fn misfit(record: &DiskRecord, parent: &DiskRecord) -> Option<String> {
    let file = record.parent.as_ref().map(|p| p.file.as_str());
    if parent.vm_id != record.vm_id || parent.device_key != record.device_key {
        Some("they are of different disks".into())
    } else if parent.sequence >= record.sequence {
        Some("the parent is not older".into())
    } else if record.base_token.as_ref() != Some(&parent.token) {
        Some(format!(
            "its changes are relative to {:?}, the parent is at {:?}",
            record.base_token, parent.token
        ))
    } else if file != Some(parent.image.file.as_str()) {
        Some(format!(
            "it names {file:?}, the parent is {:?}",
            parent.image.file
        ))
    } else if record.kind == BackupKind::Differential && parent.kind != BackupKind::Full {
        Some("a differential builds on a full".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
