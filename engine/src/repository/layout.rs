//! Where things lie in a repository, and what a name found there is.
//!
//! ```text
//! {vm-uuid}/disk-0/full-20251004-120000.qcow2   the image
//!                  full-20251004-120000.json    its sidecar
//!                  full-20251004-120000.crc     its checksums
//! {vm-uuid}/points/{backup-id}.json             the restore point: exists = sealed
//!                  {backup-id}.state.jsonl      what changes after the seal
//!                  {backup-id}.json.deleting    a point that is being deleted: it exists no more
//! .sendense/repository.json                     repository id, format version
//!           lease, reserve, quarantine/         who has it open; space kept for deletes; finds
//! ```
//! Whatever is not finished is `{stem}.{backup-id}.{repository}.{ending}.partial` (a manifest has
//! no stem): whose it is stands in its name from the moment it exists.
//!
//! Invariant: a name that parses here was made by the grammar above and by nothing else; every
//! other name is foreign and is never touched. Times in names are UTC labels; order is the
//! sequence number.

use std::fmt;

use jiff::Timestamp;

use super::backup_id::{BackupId, first_free, is_suffix};
use super::ids::{BackupKind, DiskNumber, RepositoryId, VmId};
use crate::Result;

/// The directory of the repository's own things.
pub const META_DIR: &str = ".sendense";
/// The file that makes a directory a repository.
pub const REPOSITORY_FILE: &str = ".sendense/repository.json";
/// Where files without a restore point are kept for a person to look at.
pub const QUARANTINE_DIR: &str = ".sendense/quarantine";

pub(super) const REPOSITORY_NEW_FILE: &str = ".sendense/repository.json.new";
pub(super) const LEASE_FILE: &str = ".sendense/lease";
pub(super) const RESERVE_FILE: &str = ".sendense/reserve";

const PARTIAL: &str = ".partial";

/// A VM's directory.
pub fn vm_dir(vm: VmId) -> String {
    vm.to_string()
}

/// The name of a disk's directory within its VM's.
pub fn disk_name(disk: DiskNumber) -> String {
    format!("disk-{disk}")
}

/// The disk whose directory has this name.
pub fn parse_disk_name(name: &str) -> Option<DiskNumber> {
    let digits = name.strip_prefix("disk-")?;
    let disk = DiskNumber::new(digits.parse().ok()?).ok()?;
    (disk_name(disk) == name).then_some(disk)
}

/// A disk's directory.
pub fn disk_dir(vm: VmId, disk: DiskNumber) -> String {
    format!("{vm}/{}", disk_name(disk))
}

/// The directory of a VM's restore points.
pub fn points_dir(vm: VmId) -> String {
    format!("{vm}/points")
}

/// The manifest of a restore point.
pub fn manifest_path(vm: VmId, backup: &BackupId) -> String {
    format!("{vm}/points/{backup}.json")
}

/// The mark that a restore point is being deleted; it replaces the manifest.
pub fn deleting_path(vm: VmId, backup: &BackupId) -> String {
    format!("{vm}/points/{backup}.json.deleting")
}

/// The log of what changes after the seal.
pub fn state_path(vm: VmId, backup: &BackupId) -> String {
    format!("{vm}/points/{backup}.state.jsonl")
}

/// The common part of the three names of one disk's files: `full-20251004-120000[-n]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stem {
    text: String,
    kind: BackupKind,
}

impl Stem {
    /// The stem for this moment, the first one that is not `taken`.
    pub fn new(kind: BackupKind, at: Timestamp, taken: impl FnMut(&str) -> bool) -> Result<Self> {
        let base = format!("{}-{}", kind.short(), at.strftime("%Y%m%d-%H%M%S"));
        let text = first_free(&base, taken)?;
        Ok(Self { text, kind })
    }

    /// Reads a stem.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let word = parts.next()?;
        let kind = BackupKind::ALL.into_iter().find(|k| k.short() == word)?;
        let (day, second) = (parts.next()?, parts.next()?);
        let digits = |t: &str, n| t.len() == n && t.bytes().all(|b| b.is_ascii_digit());
        let ends_well = match parts.next() {
            None => true,
            Some(n) => is_suffix(n) && parts.next().is_none(),
        };
        (digits(day, 8) && digits(second, 6) && ends_well).then(|| Self {
            text: text.to_owned(),
            kind,
        })
    }

    /// The stem of an image's file name.
    pub fn of_image(file: &str) -> Option<Self> {
        Self::parse(file.strip_suffix(".qcow2")?)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The kind that the name says.
    pub fn kind(&self) -> BackupKind {
        self.kind
    }

    /// The file name of one of the three.
    pub fn file(&self, part: Part) -> String {
        format!("{}.{}", self.text, part.ending())
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The three files of one disk's restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The QCOW2 file.
    Image,
    /// CRC-32 per cluster of it.
    Checksums,
    /// What it is.
    Sidecar,
}

impl Part {
    /// All of them, in the order of step 8: the one that recovery looks for comes first.
    pub const ALL: [Self; 3] = [Self::Image, Self::Checksums, Self::Sidecar];

    /// The ending of its name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Image => "qcow2",
            Self::Checksums => "crc",
            Self::Sidecar => "json",
        }
    }
}

/// The name of an unfinished file: whose it is, and what it will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialName {
    /// What it becomes: a part of a disk's files, or (without one) the manifest.
    pub becomes: Option<(Stem, Part)>,
    /// The job that makes it.
    pub job: BackupId,
    /// The repository that it was made in.
    pub repository: RepositoryId,
}

impl PartialName {
    /// Reads the name of an unfinished file.
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_suffix(PARTIAL)?;
        let (rest, ending) = rest.rsplit_once('.')?;
        let (rest, repository) = rest.rsplit_once('.')?;
        let repository = RepositoryId::parse(repository).ok()?;
        let (becomes, job) = match BackupId::parse(rest) {
            Ok(job) => (None, job),
            Err(_) => {
                let (stem, job) = rest.split_once('.')?;
                let part = Part::ALL.into_iter().find(|p| p.ending() == ending)?;
                (Some((Stem::parse(stem)?, part)), BackupId::parse(job).ok()?)
            }
        };
        let read = Self {
            becomes,
            job,
            repository,
        };
        (read.to_string() == name).then_some(read)
    }
}

impl fmt::Display for PartialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repository = self.repository.uuid().simple();
        match &self.becomes {
            Some((stem, part)) => {
                let ending = part.ending();
                write!(f, "{stem}.{}.{repository}.{ending}{PARTIAL}", self.job)
            }
            None => write!(f, "{}.{repository}.json{PARTIAL}", self.job),
        }
    }
}

/// What a name in a disk's directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundInDisk {
    /// A finished file of a restore point.
    Finished(Stem, Part),
    /// An unfinished file.
    Unfinished(PartialName),
    /// Not ours.
    Foreign,
}

impl FoundInDisk {
    /// Sorts a name.
    pub fn parse(name: &str) -> Self {
        if let Some(partial) = PartialName::parse(name) {
            return match partial.becomes {
                Some(_) => Self::Unfinished(partial),
                None => Self::Foreign,
            };
        }
        let finished = name.rsplit_once('.').and_then(|(stem, ending)| {
            let part = Part::ALL.into_iter().find(|p| p.ending() == ending)?;
            Some(Self::Finished(Stem::parse(stem)?, part))
        });
        finished.unwrap_or(Self::Foreign)
    }
}

/// What a name in a VM's `points` directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundInPoints {
    /// A sealed restore point.
    Manifest(BackupId),
    /// A restore point on its way out.
    Deleting(BackupId),
    /// The log of a restore point.
    State(BackupId),
    /// An unfinished manifest.
    Unfinished(PartialName),
    /// Not ours.
    Foreign,
}

impl FoundInPoints {
    /// Sorts a name.
    pub fn parse(name: &str) -> Self {
        if let Some(partial) = PartialName::parse(name) {
            return match partial.becomes {
                None => Self::Unfinished(partial),
                Some(_) => Self::Foreign,
            };
        }
        let id = |ending| {
            let id = name.strip_suffix(ending)?;
            BackupId::parse(id).ok()
        };
        if let Some(id) = id(".json.deleting") {
            Self::Deleting(id)
        } else if let Some(id) = id(".state.jsonl") {
            Self::State(id)
        } else if let Some(id) = id(".json") {
            Self::Manifest(id)
        } else {
            Self::Foreign
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noon() -> Timestamp {
        "2025-10-04T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_second_point_within_one_second_gets_a_suffix() {
        let first = Stem::new(BackupKind::Full, noon(), |_| false).unwrap();
        assert_eq!(first.file(Part::Image), "full-20251004-120000.qcow2");
        let second = Stem::new(BackupKind::Full, noon(), |t| t == first.as_str()).unwrap();
        assert_eq!(second.file(Part::Sidecar), "full-20251004-120000-2.json");
        assert_eq!(Stem::of_image(&second.file(Part::Image)), Some(second));
    }

    #[test]
    fn names_sort_into_what_they_are() {
        let job = BackupId::parse("backup-web.example.com-20251004120000-3").unwrap();
        let repository = RepositoryId::generate();
        let stem = Stem::new(BackupKind::Incremental, noon(), |_| false).unwrap();
        for part in Part::ALL {
            let name = stem.file(part);
            assert_eq!(
                FoundInDisk::parse(&name),
                FoundInDisk::Finished(stem.clone(), part)
            );
            let partial = PartialName {
                becomes: Some((stem.clone(), part)),
                job: job.clone(),
                repository,
            };
            let name = partial.to_string();
            assert!(name.len() < 200);
            assert_eq!(FoundInDisk::parse(&name), FoundInDisk::Unfinished(partial));
            assert_eq!(FoundInPoints::parse(&name), FoundInPoints::Foreign);
        }
        let partial = PartialName {
            becomes: None,
            job: job.clone(),
            repository,
        };
        let name = partial.to_string();
        assert_eq!(
            FoundInPoints::parse(&name),
            FoundInPoints::Unfinished(partial)
        );
        assert_eq!(FoundInDisk::parse(&name), FoundInDisk::Foreign);

        assert_eq!(
            FoundInPoints::parse(&format!("{job}.json")),
            FoundInPoints::Manifest(job.clone())
        );
        assert_eq!(
            FoundInPoints::parse(&format!("{job}.json.deleting")),
            FoundInPoints::Deleting(job.clone())
        );
        assert_eq!(
            FoundInPoints::parse(&format!("{job}.state.jsonl")),
            FoundInPoints::State(job)
        );
    }

    #[test]
    fn what_others_left_is_foreign() {
        for name in [
            "full-20251004-120000.qcow2.bak",
            "full-20251004-12000.qcow2",
            "full-20251004-120000-1.qcow2",
            "Full-20251004-120000.qcow2",
            "disk.qcow2.partial",
            "full-20251004-120000.qcow2.partial",
            ".full-20251004-120000.qcow2.swp",
            "",
        ] {
            assert_eq!(FoundInDisk::parse(name), FoundInDisk::Foreign, "{name}");
            assert_eq!(FoundInPoints::parse(name), FoundInPoints::Foreign, "{name}");
        }
        assert_eq!(parse_disk_name("disk-7"), Some(DiskNumber::new(7).unwrap()));
        assert_eq!(parse_disk_name("disk-07"), None);
        assert_eq!(parse_disk_name("disk-x"), None);
    }

    proptest! {
        #[test]
        fn sorting_names_never_panics(name in any::<String>()) {
            let _ = (FoundInDisk::parse(&name), FoundInPoints::parse(&name));
        }
    }
}
