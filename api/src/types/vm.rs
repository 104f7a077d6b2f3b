//! Machines and their disks.

use serde::{Deserialize, Serialize};

use super::Time;

/// `POST /vms`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// The name that people use. Need not be unique.
    pub name: String,
    /// The machine's own UUID, its identity; one is made up where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its disks.
    #[serde(default)]
    pub disks: Vec<NewVmDisk>,
}

/// One disk of [`NewVm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewVmDisk {
    /// The disk's number, bound for ever to its device key.
    pub disk_id: u32,
    /// The exact size in bytes.
    pub size_bytes: u64,
    /// The hypervisor's own name for the disk; `disk-N` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    /// Where its bytes come from when a backup does not say: `push`, `file:PATH`, `nbd:...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its identity: the machine's UUID.
    pub vm_id: String,
    /// A short, unique, readable id that export names carry.
    pub context_id: String,
    /// The name that people use.
    pub name: String,
    /// The same as `vm_id`.
    pub uuid: String,
    /// When it was registered.
    pub created_at: Time,
    /// Its disks, by number.
    pub disks: Vec<VmDisk>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDisk {
    /// Its number.
    pub disk_id: u32,
    /// The size that was last seen, in bytes.
    pub size_bytes: u64,
    /// The identity that the number is bound to.
    pub device_key: String,
    /// Where its bytes come from when a backup does not say.
    pub source: String,
}

/// `GET /vms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmList {
    /// One page, newest first.
    pub vms: Vec<Vm>,
    /// Pass it as `cursor=` for the next page; none on the last.
    pub next_cursor: Option<String>,
}
