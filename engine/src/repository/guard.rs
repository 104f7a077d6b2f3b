//! The chain guard: whether a backup may build on what is there, on what, and why.
//!
//! A pure decision over a request and the disk's sealed history. An increment is let through only
//! where its base token is the parent's resulting token, for the same repository, VM and disk;
//! everything else is a refusal that names both sides, or a full where the caller allows one.
//! A full is always right, if large; a delta on the wrong parent is a silent wrong restore.

use std::fmt;

use super::backup_id::BackupId;
use super::ids::{BackupKind, ChangeToken, DeviceKey, DiskNumber, RepositoryId, VmId};
use super::sidecar::{DiskRecord, ParentLink};
use crate::{Error, ErrorKind};

/// What is asked for one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// The repository that the backup goes to.
    pub repository: RepositoryId,
    /// The VM.
    pub vm: VmId,
    /// The disk's number.
    pub disk: DiskNumber,
    /// The disk's identity.
    pub device_key: DeviceKey,
    /// The kind asked for.
    pub kind: BackupKind,
    /// What the blocks that will be sent are relative to.
    pub base_token: Option<ChangeToken>,
    /// Whether a full may be done where what was asked cannot be.
    pub allow_full: bool,
    /// The disk's size in bytes, exactly.
    pub size: u64,
    /// Points that somebody found damaged, with what was found: nothing is built on them, nor on
    /// what builds on them.
    pub damaged: Vec<(BackupId, String)>,
}

/// The newest sealed restore point of a disk.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    /// There is no restore point of this disk.
    None,
    /// This one.
    At(&'a DiskRecord),
    /// Several claim to be it, or a manifest cannot be read: nothing can be built on.
    Unclear(&'a str),
}

/// What is sealed of a VM, as far as one disk is concerned.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// Disk numbers and the device keys that they are bound to.
    pub bindings: &'a [(DiskNumber, DeviceKey)],
    /// The newest sealed point of this disk.
    pub head: Head<'a>,
    /// The full that the head's chain goes back to.
    pub full: Option<&'a DiskRecord>,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The kind.
    pub kind: BackupKind,
    /// What was asked for.
    pub requested: BackupKind,
    /// Why.
    pub reason: Reason,
    /// What it builds on; a full builds on nothing.
    pub parent: Option<Parent>,
}

/// What a backup builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// The restore point and its image's name.
    pub link: ParentLink,
    /// Its token, which is the base of what will be sent.
    pub token: ChangeToken,
    /// Its size in bytes.
    pub virtual_size: u64,
}

impl Parent {
    fn of(record: &DiskRecord) -> Self {
        Self {
            link: ParentLink {
                backup_id: record.backup_id.clone(),
                file: record.image.file.clone(),
            },
            token: record.token.clone(),
            virtual_size: record.virtual_size,
        }
    }
}

/// Why a kind was chosen.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was asked for.
    AsRequested,
    /// A disk that joined a VM which has restore points: its first is a full.
    NewDisk,
    /// The disk is smaller than what it would build on.
    DiskShrank {
        /// The size before.
        from: u64,
        /// The size now.
        to: u64,
    },
    /// What was asked was refused, and a full was allowed instead.
    Instead(Refusal),
}

impl Reason {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AsRequested => "as_requested",
            Self::NewDisk => "new_disk",
            Self::DiskShrank { .. } => "disk_shrank",
            Self::Instead(refusal) => refusal.code(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsRequested => f.write_str("as requested"),
            Self::NewDisk => f.write_str("a new disk begins with a full"),
            Self::DiskShrank { from, to } => {
                write!(f, "the disk shrank from {from} to {to} bytes")
            }
            Self::Instead(refusal) => write!(f, "a full was allowed instead: {refusal}"),
        }
    }
}

/// Why a backup is refused.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The base token is not the parent's.
    BaseTokenMismatch {
        /// What was brought, if anything was.
        given: Option<ChangeToken>,
        /// The restore point that it would build on.
        parent: BackupId,
        /// That point's token.
        parent_token: ChangeToken,
    },
    /// There is no restore point of this disk to build on.
    NoParent {
        /// The disk.
        disk: DiskNumber,
    },
    /// The disk's number belongs to another device.
    WrongDisk {
        /// The number.
        disk: DiskNumber,
        /// The device that it is bound to.
        bound: DeviceKey,
        /// The device that was named.
        given: DeviceKey,
    },
    /// The device has another number.
    WrongNumber {
        /// The device.
        device_key: DeviceKey,
        /// Its number.
        bound: DiskNumber,
        /// The number that was named.
        given: DiskNumber,
    },
    /// What it would build on is another VM's.
    OtherVm {
        /// The VM asked for.
        given: VmId,
        /// Whose it is.
        found: VmId,
    },
    /// The request, or what it would build on, belongs to another repository.
    OtherRepository {
        /// The repository asked.
        here: RepositoryId,
        /// The other one.
        there: RepositoryId,
    },
    /// What is newest cannot be told.
    UnclearHead {
        /// Why.
        why: String,
    },
    /// Files of what it would build on are damaged or gone.
    DamagedParent {
        /// The restore point that it would build on.
        parent: BackupId,
        /// What is wrong.
        why: String,
    },
    /// A disk without a single byte.
    NoSize,
}

impl Refusal {
    /// A stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BaseTokenMismatch { .. } => "base_token_mismatch",
            Self::NoParent { .. } => "no_parent",
            Self::WrongDisk { .. } | Self::WrongNumber { .. } => "wrong_disk",
            Self::OtherVm { .. } => "other_vm",
            Self::OtherRepository { .. } => "other_repository",
            Self::UnclearHead { .. } => "unclear_head",
            Self::DamagedParent { .. } => "damaged_parent",
            Self::NoSize => "no_size",
        }
    }

    /// Whether a full would do what the increment cannot.
    fn cured_by_full(&self) -> bool {
        matches!(
            self,
            Self::BaseTokenMismatch { .. }
                | Self::NoParent { .. }
                | Self::UnclearHead { .. }
                | Self::DamagedParent { .. }
                | Self::OtherRepository { .. }
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseTokenMismatch {
                given: Some(given),
                parent,
                parent_token,
            } => write!(
                f,
                "the changes are relative to {:?}, but {parent} is at {:?}",
                given.as_str(),
                parent_token.as_str()
            ),
            Self::BaseTokenMismatch {
                given: None,
                parent,
                parent_token,
            } => write!(
                f,
                "no base token came, and {parent} is at {:?}",
                parent_token.as_str()
            ),
            Self::NoParent { disk } => {
                write!(f, "disk {disk} has no restore point here to build on")
            }
            Self::WrongDisk { disk, bound, given } => {
                write!(f, "disk {disk} is device {bound}, not {given}")
            }
            Self::WrongNumber {
                device_key,
                bound,
                given,
            } => write!(f, "device {device_key} is disk {bound}, not {given}"),
            Self::OtherVm { given, found } => {
                write!(f, "the restore point is one of VM {found}, not of {given}")
            }
            Self::OtherRepository { here, there } => {
                write!(f, "this is repository {here}, not {there}")
            }
            Self::UnclearHead { why } => write!(f, "the newest restore point is unclear: {why}"),
            Self::DamagedParent { parent, why } => {
                write!(f, "{parent} is damaged, nothing can be built on it: {why}")
            }
            Self::NoSize => f.write_str("a disk of 0 bytes cannot be backed up"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::BaseTokenMismatch { .. } => ErrorKind::BaseTokenMismatch,
            Refusal::NoParent { .. } => ErrorKind::NoParent,
            Refusal::WrongDisk { .. } | Refusal::WrongNumber { .. } => ErrorKind::WrongDisk,
            Refusal::UnclearHead { .. } | Refusal::DamagedParent { .. } => ErrorKind::Damaged,
            Refusal::OtherVm { .. } | Refusal::OtherRepository { .. } | Refusal::NoSize => {
                ErrorKind::Invalid
            }
        };
        Self::with(kind, "the backup is refused", refusal)
    }
}

/// Decides what to do.
pub fn decide(request: &DiskRequest, history: &History<'_>) -> Result<Decision, Refusal> {
    if request.repository != history.repository {
        return Err(Refusal::OtherRepository {
            here: history.repository,
            there: request.repository,
        });
    }
    if request.size == 0 {
        return Err(Refusal::NoSize);
    }
    check_identity(request, history.bindings)?;
    if request.kind == BackupKind::Full {
        return Ok(full(request, Reason::AsRequested));
    }
    increment(request, history).or_else(|refusal| instead(request, refusal))
}

/// A full, where one is allowed and cures the refusal.
pub(super) fn instead(request: &DiskRequest, refusal: Refusal) -> Result<Decision, Refusal> {
    if request.allow_full && refusal.cured_by_full() {
        Ok(full(request, Reason::Instead(refusal)))
    } else {
        Err(refusal)
    }
}

fn full(request: &DiskRequest, reason: Reason) -> Decision {
    Decision {
        kind: BackupKind::Full,
        requested: request.kind,
        reason,
        parent: None,
    }
}

/// A number is one device and a device is one number, wherever the disk stands in a list today.
fn check_identity(
    request: &DiskRequest,
    bindings: &[(DiskNumber, DeviceKey)],
) -> Result<(), Refusal> {
    for (disk, key) in bindings {
        if *disk == request.disk && *key != request.device_key {
            return Err(Refusal::WrongDisk {
                disk: *disk,
                bound: key.clone(),
                given: request.device_key.clone(),
            });
        }
        if *key == request.device_key && *disk != request.disk {
            return Err(Refusal::WrongNumber {
                device_key: key.clone(),
                bound: *disk,
                given: request.disk,
            });
        }
    }
    Ok(())
}

fn increment(request: &DiskRequest, history: &History<'_>) -> Result<Decision, Refusal> {
    let head = match history.head {
        Head::At(head) => head,
        // A disk that joined the VM has nothing to be relative to, and says so by bringing no
        // token; one that brings a token believes in a parent that is not here.
        Head::None if request.base_token.is_none() && !history.bindings.is_empty() => {
            return Ok(full(request, Reason::NewDisk));
        }
        Head::None => return Err(Refusal::NoParent { disk: request.disk }),
        Head::Unclear(why) => return Err(Refusal::UnclearHead { why: why.into() }),
    };
    let parent = if request.kind == BackupKind::Differential {
        history.full.ok_or_else(|| Refusal::UnclearHead {
            why: format!("{} goes back to no full", head.backup_id),
        })?
    } else {
        head
    };
    if parent.repository_id != history.repository {
        return Err(Refusal::OtherRepository {
            here: history.repository,
            there: parent.repository_id,
        });
    }
    if parent.vm_id != request.vm {
        return Err(Refusal::OtherVm {
            given: request.vm,
            found: parent.vm_id,
        });
    }
    if parent.device_key != request.device_key {
        return Err(Refusal::WrongDisk {
            disk: request.disk,
            bound: parent.device_key.clone(),
            given: request.device_key.clone(),
        });
    }
    let before = head.virtual_size.max(parent.virtual_size);
    if request.size < before {
        let to = request.size;
        return Ok(full(request, Reason::DiskShrank { from: before, to }));
    }
    if request.base_token.as_ref() != Some(&parent.token) {
        return Err(Refusal::BaseTokenMismatch {
            given: request.base_token.clone(),
            parent: parent.backup_id.clone(),
            parent_token: parent.token.clone(),
        });
    }
    Ok(Decision {
        kind: request.kind,
        requested: request.kind,
        reason: Reason::AsRequested,
        parent: Some(Parent::of(parent)),
    })
}

#[cfg(test)]
mod tests;
