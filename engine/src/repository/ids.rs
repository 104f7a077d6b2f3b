//! Who is who: VMs, disks, repositories, change tokens, kinds of backup, order.
//!
//! Identity is never a display name or an index that somebody counted: a VM is its UUID, a disk is
//! (VM, device key). Every text is checked where it enters; what is wrapped here is safe in a file
//! name and in a log line. What hypervisors hand out (tokens, device keys) stays opaque.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backup_id::BackupId;
use super::text_id::{is_plain, plain_part, text_id};
use crate::{Error, ErrorKind, Result};

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// A new random one.
            pub fn generate() -> Self {
                Self(Uuid::new_v4())
            }

            /// Wraps a UUID; the nil and the all-ones one are refused, since broken firmware
            /// gives them to many machines at once.
            pub fn new(uuid: Uuid) -> Result<Self> {
                if uuid.is_nil() || uuid.is_max() {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!(concat!($what, " may not be {}: it tells nothing apart"), uuid),
                    ));
                }
                Ok(Self(uuid))
            }

            /// Reads the text form.
            pub fn parse(text: &str) -> Result<Self> {
                let uuid = Uuid::parse_str(text).map_err(|e| {
                    Error::with(
                        ErrorKind::Invalid,
                        format!(concat!($what, " {:?} is not a UUID"), text),
                        e,
                    )
                })?;
                Self::new(uuid)
            }

            /// The UUID.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

uuid_id! {
    /// A virtual machine, for its whole life, whatever it is called.
    VmId, "the VM id"
}
uuid_id! {
    /// A repository. It travels with the directory; two directories with one id are copies.
    RepositoryId, "the repository id"
}

fn opaque(text: &str, max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    if text.len() > max {
        return Err(format!(
            "has {} bytes, more than the {max} that it may have",
            text.len()
        ));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("holds the control character {c:?}")),
        None => Ok(()),
    }
}

fn check_device_key(text: &str) -> Result<(), String> {
    opaque(text, 256)
}

fn check_token(text: &str) -> Result<(), String> {
    opaque(text, 1024)
}

fn check_context(text: &str) -> Result<(), String> {
    opaque(text, 128)?;
    if is_plain(text) {
        Ok(())
    } else {
        Err(format!(
            "{text:?} may only hold letters, digits, '-', '_' and '.'"
        ))
    }
}

text_id! {
    /// What the hypervisor calls a disk of one VM, for that disk's whole life (VMware's device
    /// key, a disk's serial, a target name). Opaque; compared byte for byte.
    DeviceKey, "the device key", check_device_key
}
text_id! {
    /// What a disk's content is called at one moment by whoever tracks changes (VMware changeId, a
    /// bitmap's name, ...). Opaque; compared byte for byte.
    ChangeToken, "the change token", check_token
}
text_id! {
    /// The id under which capture agents know a VM's backups; part of the export names.
    ContextId, "the context id", check_context
}

impl DeviceKey {
    /// The key of a disk that came without one: its number.
    pub fn of_number(disk: DiskNumber) -> Self {
        Self(format!("disk-{disk}"))
    }
}

impl ChangeToken {
    /// The token of a point whose mover brought none.
    pub fn of_backup(backup: &BackupId) -> Self {
        Self(format!("sendense:{backup}"))
    }
}

impl ContextId {
    /// The context of a VM: readable, and as unique as the VM's id.
    pub fn of_vm(vm: VmId, vm_name: &str) -> Self {
        Self(format!(
            "ctx-{}-{}",
            plain_part(vm_name, 40),
            vm.uuid().simple()
        ))
    }
}

/// The number of a disk within its VM: bound to one device key at first sight, never given to
/// another while a restore point knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct DiskNumber(u16);

impl DiskNumber {
    /// The largest one.
    pub const MAX: Self = Self(999);

    /// Wraps a number, 0 to 999.
    pub fn new(number: u32) -> Result<Self> {
        match u16::try_from(number) {
            Ok(n) if n <= Self::MAX.0 => Ok(Self(n)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("disk number {number} is past {}", Self::MAX),
            )),
        }
    }

    /// The plain number.
    pub fn get(self) -> u32 {
        u32::from(self.0)
    }
}

impl TryFrom<u32> for DiskNumber {
    type Error = Error;
    fn try_from(number: u32) -> Result<Self> {
        Self::new(number)
    }
}

impl From<DiskNumber> for u32 {
    fn from(disk: DiskNumber) -> Self {
        disk.get()
    }
}

impl fmt::Display for DiskNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for DiskNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskNumber({})", self.0)
    }
}

/// What a restore point of a disk is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// To nothing.
    Full,
    /// To the newest restore point.
    Incremental,
    /// To the full that the newest restore point goes back to.
    Differential,
}

impl BackupKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Full, Self::Incremental, Self::Differential];

    /// The four letters of file and export names.
    pub fn short(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incr",
            Self::Differential => "diff",
        }
    }

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for BackupKind {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!("backup type {text:?} is none of full, incremental, differential"),
                )
            })
    }
}

/// The place of a restore point in the order of its VM, or of its disk. Never a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(u64);

impl Sequence {
    /// The place of the first one.
    pub const FIRST: Self = Self(1);

    /// Wraps a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place `by` behind this one.
    pub const fn plus(self, by: u64) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_that_tell_nothing_apart_are_refused() {
        assert!(VmId::parse("00000000-0000-0000-0000-000000000000").is_err());
        assert!(VmId::parse("ffffffff-ffff-ffff-ffff-ffffffffffff").is_err());
        assert!(VmId::parse("pgtest2").is_err());
        let id = VmId::generate();
        assert_eq!(VmId::parse(&id.to_string()).unwrap(), id);
    }

    #[test]
    fn tokens_are_opaque_bounded_and_printable() {
        let token = ChangeToken::parse("52 5e a1/8 ü").unwrap();
        let json = serde_json::to_string(&token).unwrap();
        assert_eq!(serde_json::from_str::<ChangeToken>(&json).unwrap(), token);
        assert!(ChangeToken::parse("").is_err());
        assert!(ChangeToken::parse("a\nb").is_err());
        assert!(ChangeToken::parse("x".repeat(1024)).is_ok());
        assert!(ChangeToken::parse("x".repeat(1025)).is_err());
        assert!(serde_json::from_str::<ChangeToken>("\"\"").is_err());
    }

    #[test]
    fn contexts_of_two_vms_with_one_name_differ() {
        let (a, b) = (VmId::generate(), VmId::generate());
        let (a, b) = (ContextId::of_vm(a, "web"), ContextId::of_vm(b, "web"));
        assert_ne!(a, b);
        assert!(ContextId::parse(a.as_str()).is_ok());
        assert!(ContextId::parse("a/b").is_err());
        assert!(ContextId::parse("x".repeat(129)).is_err());
    }

    #[test]
    fn disk_numbers_and_kinds_have_their_bounds() {
        assert_eq!(DiskNumber::new(999).unwrap(), DiskNumber::MAX);
        assert!(DiskNumber::new(1000).is_err());
        assert!(serde_json::from_str::<DiskNumber>("70000").is_err());
        assert!("Full".parse::<BackupKind>().is_err());
        for kind in BackupKind::ALL {
            assert_eq!(kind.as_str().parse::<BackupKind>().unwrap(), kind);
        }
    }
}
