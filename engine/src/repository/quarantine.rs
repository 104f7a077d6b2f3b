//! What lies in quarantine: finished files that no manifest names, and whether a restore point can
//! be made of them again.
//!
//! Nothing is changed here, and only sidecars are read: that every byte is what was sealed, an
//! adoption finds out.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::backup_id::BackupId;
use super::guard::{DiskRequest, Head};
use super::ids::{BackupKind, DiskNumber, VmId};
use super::layout::{FoundInDisk, Part, QUARANTINE_DIR, Stem, disk_name, parse_disk_name};
use super::points::VmPoints;
use super::sidecar::{DiskRecord, MAX_SIDECAR_BYTES};
use super::store::{Inner, Repository, decide_whole, lock};
use crate::Result;
use crate::storage::{Create, EntryKind};

/// A disk of a backup that lies in quarantine, or a file there of which nobody knows more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineFind {
    /// The VM whose directory it was found in.
    pub vm: VmId,
    /// The disk whose directory it was found in.
    pub disk: DiskNumber,
    /// Its image, or the file, relative to the repository.
    pub path: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// What its sidecar says, where there is one that can be read.
    pub record: Option<Arc<DiskRecord>>,
    /// Why no restore point can be made of it as things are; none where one can, if its bytes are
    /// what was sealed.
    pub why_not: Option<String>,
}

impl Repository {
    /// What lies in quarantine, by VM, disk and name.
    pub fn quarantine(&self) -> Result<Vec<QuarantineFind>> {
        let mut finds = Vec::new();
        for name in subdirectories(&self.inner, QUARANTINE_DIR)? {
            let Some(vm) = VmId::parse(&name).ok().filter(|vm| vm.to_string() == name) else {
                continue;
            };
            let book = self.inner.book(vm);
            let points = lock(&book).points(&self.inner)?;
            let mut of_vm = finds_of(&self.inner, vm)?;
            judge(&self.inner, &points, &mut of_vm);
            finds.append(&mut of_vm);
        }
        Ok(finds)
    }
}

/// The directory of a disk's files in quarantine.
pub(super) fn quarantine_dir(vm: VmId, disk: DiskNumber) -> String {
    format!("{QUARANTINE_DIR}/{vm}/{}", disk_name(disk))
}

fn subdirectories(inner: &Inner, path: &str) -> Result<Vec<String>> {
    match inner.dir.list(path) {
        Ok(entries) => Ok(entries
            .into_iter()
            .filter(|e| e.kind == EntryKind::Directory)
            .map(|e| e.name)
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(inner.io(&format!("listing {path}"), e)),
    }
}

/// What lies in quarantine of one VM, not yet judged.
pub(super) fn finds_of(inner: &Inner, vm: VmId) -> Result<Vec<QuarantineFind>> {
    let mut finds = Vec::new();
    for name in subdirectories(inner, &format!("{QUARANTINE_DIR}/{vm}"))? {
        let Some(disk) = parse_disk_name(&name) else {
            continue;
        };
        let dir = quarantine_dir(vm, disk);
        let entries = inner.dir.list(&dir);
        let entries = entries.map_err(|e| inner.io(&format!("listing {dir}"), e))?;
        let files = entries.iter().filter(|e| e.kind == EntryKind::File);
        let names: Vec<&str> = files.map(|e| e.name.as_str()).collect();
        for name in &names {
            match FoundInDisk::parse(name) {
                FoundInDisk::Finished(stem, Part::Sidecar) => {
                    finds.push(find(inner, vm, disk, &dir, &stem, &names)?);
                }
                // Told with its sidecar.
                FoundInDisk::Finished(stem, _)
                    if names.contains(&stem.file(Part::Sidecar).as_str()) => {}
                _ => {
                    let path = format!("{dir}/{name}");
                    finds.push(QuarantineFind {
                        vm,
                        disk,
                        bytes: len_of(inner, &path).unwrap_or(0),
                        path,
                        record: None,
                        why_not: Some("no sidecar says what it is".to_owned()),
                    });
                }
            }
        }
    }
    Ok(finds)
}

fn find(
    inner: &Inner,
    vm: VmId,
    disk: DiskNumber,
    dir: &str,
    stem: &Stem,
    names: &[&str],
) -> Result<QuarantineFind> {
    let mut bytes = 0;
    let mut why_not = None;
    for part in Part::ALL {
        let file = stem.file(part);
        if names.contains(&file.as_str()) {
            // One file that cannot be opened must not hide the others.
            match len_of(inner, &format!("{dir}/{file}")) {
                Ok(len) => bytes += len,
                Err(e) => why_not = Some(e.to_string()),
            }
        } else {
            why_not = Some(format!("{file} is not there"));
        }
    }
    let path = format!("{dir}/{}", stem.file(Part::Sidecar));
    let read = match inner.dir.read_small(&path, MAX_SIDECAR_BYTES) {
        Ok(bytes) => DiskRecord::decode(&path, &bytes),
        Err(e) => Err(inner.io(&format!("reading {path}"), e)),
    };
    let record = match read {
        Ok(record)
            if record.vm_id != vm
                || record.disk != disk
                || record.stem().as_ref() != Some(stem) =>
        {
            why_not = Some("its sidecar does not describe what lies beside it".to_owned());
            None
        }
        Ok(record) => Some(Arc::new(record)),
        Err(e) => {
            why_not = Some(e.to_string());
            None
        }
    };
    Ok(QuarantineFind {
        vm,
        disk,
        path: format!("{dir}/{}", stem.file(Part::Image)),
        bytes,
        record,
        why_not,
    })
}

fn len_of(inner: &Inner, path: &str) -> Result<u64> {
    let len = inner.dir.open(path, Create::OpenRead).and_then(|f| f.len());
    len.map_err(|e| inner.io(&format!("looking at {path}"), e))
}

/// Says of each find why no restore point can be made of it; all disks of a backup share that.
fn judge(inner: &Inner, points: &VmPoints, finds: &mut [QuarantineFind]) {
    let ids: Vec<Option<BackupId>> = finds
        .iter()
        .map(|f| f.record.as_ref().map(|r| r.backup_id.clone()))
        .collect();
    let verdicts: Vec<Option<String>> = finds
        .iter()
        .zip(&ids)
        .map(|(find, id)| match (&find.why_not, id) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(id)) => why_not(inner, points, &of_backup(finds, id)),
            (None, None) => None,
        })
        .collect();
    for (find, verdict) in finds.iter_mut().zip(verdicts) {
        find.why_not = verdict;
    }
}

/// The finds of one backup.
pub(super) fn of_backup<'a>(finds: &'a [QuarantineFind], id: &BackupId) -> Vec<&'a QuarantineFind> {
    let of = |f: &&QuarantineFind| f.record.as_ref().is_some_and(|r| r.backup_id == *id);
    finds.iter().filter(of).collect()
}

/// Why these finds, all that there are of one backup, are no restore point beside these points;
/// none where they are one, by everything but the bytes of their images.
pub(super) fn why_not(
    inner: &Inner,
    points: &VmPoints,
    finds: &[&QuarantineFind],
) -> Option<String> {
    for find in finds {
        if let Some(why) = &find.why_not {
            return Some(format!("disk {}: {why}", find.disk));
        }
    }
    let records: Vec<&DiskRecord> = finds.iter().filter_map(|f| f.record.as_deref()).collect();
    let Some(first) = records.first() else {
        return Some("no sidecar says what it is".to_owned());
    };
    if points.all().iter().any(|p| *p.id() == first.backup_id)
        || points
            .damaged()
            .iter()
            .any(|d| d.backup_id == first.backup_id)
    {
        return Some("there is a restore point of this name already".to_owned());
    }
    let Some(count) = first.point_disks else {
        return Some(
            "its sidecar does not say how many disks the restore point had: it was made by an \
             older version"
                .to_owned(),
        );
    };
    let disks: BTreeSet<DiskNumber> = records.iter().map(|r| r.disk).collect();
    if records.iter().any(|r| r.point_disks != Some(count))
        || disks.len() != records.len()
        || records.len() as u64 != u64::from(count)
    {
        return Some(format!(
            "{} of the restore point's {count} disks are here",
            records.len()
        ));
    }
    records
        .iter()
        .find_map(|r| misfit(inner, points, r).map(|why| format!("disk {}: {why}", r.disk)))
}

/// Why a record does not go on where its disk's points end: the chain guard's own word.
fn misfit(inner: &Inner, points: &VmPoints, record: &DiskRecord) -> Option<String> {
    if record.repository_id != inner.id {
        return Some(format!(
            "it was sealed in repository {}",
            record.repository_id
        ));
    }
    match points.head(record.disk) {
        Head::Unclear(why) => {
            return Some(format!("which point is the newest is not clear: {why}"));
        }
        Head::At(head) if head.sequence >= record.sequence => {
            return Some(format!(
                "the chain has moved on: {} was sealed in its place or behind it",
                head.backup_id
            ));
        }
        _ => {}
    }
    let request = DiskRequest {
        repository: inner.id,
        vm: record.vm_id,
        disk: record.disk,
        device_key: record.device_key.clone(),
        kind: record.kind,
        base_token: match record.kind {
            BackupKind::Full => None,
            _ => record.base_token.clone(),
        },
        allow_full: false,
        size: record.virtual_size,
        damaged: Vec::new(),
    };
    match decide_whole(inner, points, &request) {
        Err(refusal) => Some(refusal.to_string()),
        Ok(decision) if decision.kind != record.kind => Some(decision.reason.to_string()),
        Ok(decision) => {
            let parent = decision.parent.map(|p| p.link);
            (parent != record.parent).then(|| {
                let name = |link: Option<&BackupId>| {
                    link.map_or_else(|| "nothing".to_owned(), ToString::to_string)
                };
                format!(
                    "the chain has moved on: it was built on {}, the next point builds on {}",
                    name(record.parent.as_ref().map(|p| &p.backup_id)),
                    name(parent.as_ref().map(|p| &p.backup_id)),
                )
            })
        }
    }
}
