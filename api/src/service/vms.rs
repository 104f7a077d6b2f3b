//! Machines: registered by hand or by a full that brings its disks; named, or by id.
//!
//! Identity is the machine's UUID and the disk's device key. A disk number is bound to its device
//! key at first sight and never again; a name is only a way to find an id.

use sendense_engine::repository::{ContextId, DeviceKey, DiskNumber, VmId};

use super::{Fault, Result, Service, catalog, names};
use crate::auth::Caller;
use crate::store::{AuditRow, Cursor, VmDiskRow, VmRow};
use crate::types::{Code, NewVm, NewVmDisk, Time, Vm, VmList};

/// How a caller names a machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmRef<'a> {
    /// By name.
    pub name: Option<&'a str>,
    /// By id.
    pub id: Option<&'a str>,
}

impl Service {
    /// Registers a machine.
    pub async fn add_vm(&self, caller: &Caller, new: NewVm) -> Result<Vm> {
        let (row, disks) = plan_vm(new)?;
        if self.store().vm(&row.id).await?.is_some() {
            return Err(registered_already(&row.id));
        }
        let mut tx = self.store().begin_write().await?;
        // Once more with the writer's turn: somebody else may have been as quick.
        if tx.vm_exists(&row.id).await? {
            return Err(registered_already(&row.id));
        }
        tx.insert_vm(&row).await?;
        for disk in &disks {
            tx.upsert_vm_disk(disk).await?;
        }
        tx.audit(&AuditRow {
            at: row.created_at,
            actor: caller.name.clone(),
            action: "vm.add".to_owned(),
            object: row.id.clone(),
            detail: format!("{} with {} disks", row.name, disks.len()),
        })
        .await?;
        tx.commit().await?;
        Ok(view(row, disks))
    }

    /// One machine.
    pub async fn show_vm(&self, id_or_name: &str) -> Result<Vm> {
        let row = match self.store().vm(id_or_name).await? {
            Some(row) => row,
            None => {
                let by_name = VmRef {
                    name: Some(id_or_name),
                    id: None,
                };
                self.resolve_vm(by_name).await?
            }
        };
        let disks = self.store().vm_disks(&row.id).await?;
        Ok(view(row, disks))
    }

    /// One page of machines.
    pub async fn list_vms(&self, cursor: Option<&str>, limit: u32) -> Result<VmList> {
        let after = cursor.map_or_else(|| Ok(Cursor::start()), Cursor::parse)?;
        let page = self.store().vms(&after, limit).await?;
        let mut vms = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            let disks = self.store().vm_disks(&row.id).await?;
            vms.push(view(row, disks));
        }
        Ok(VmList {
            vms,
            next_cursor: page.next.map(|c| c.encode()),
        })
    }

    /// The one machine that is meant, or why not.
    pub(crate) async fn resolve_vm(&self, vm: VmRef<'_>) -> Result<VmRow> {
        self.find_vm(vm).await?.ok_or_else(|| {
            let what = vm.id.or(vm.name).unwrap_or_default();
            Fault::new(
                Code::VmNotFound,
                format!("no machine {what:?} is registered"),
            )
        })
    }

    /// The one machine that is meant, if it is registered.
    pub(crate) async fn find_vm(&self, vm: VmRef<'_>) -> Result<Option<VmRow>> {
        match vm {
            VmRef { id: Some(id), name } => {
                let row = self.store().vm(id).await?;
                if let (Some(row), Some(name)) = (&row, name)
                    && row.name != name
                {
                    return Err(Fault::invalid(format!(
                        "vm_id {id} is {:?}, not {name:?}",
                        row.name
                    ))
                    .hint("send vm_id alone; a name is not needed beside it"));
                }
                match row {
                    Some(row) => Ok(Some(row)),
                    None => Err(Fault::new(
                        Code::VmNotFound,
                        format!("no machine {id:?} is registered"),
                    )),
                }
            }
            VmRef {
                id: None,
                name: Some(name),
            } => {
                let mut rows = self.store().vms_named(name).await?;
                if rows.len() > 1 {
                    let ids: Vec<String> = rows.into_iter().map(|r| r.id).collect();
                    return Err(Fault::new(
                        Code::Ambiguous,
                        format!(
                            "{} machines are named {name:?}: {}",
                            ids.len(),
                            ids.join(", ")
                        ),
                    )
                    .hint("send vm_id instead of vm_name")
                    .member("ids", ids));
                }
                Ok(rows.pop())
            }
            VmRef { .. } => Err(Fault::new(
                Code::BadRequest,
                "neither vm_name nor vm_id is given",
            )),
        }
    }
}

fn registered_already(id: &str) -> Fault {
    Fault::new(
        Code::Exists,
        format!("a machine with the UUID {id} is registered already"),
    )
    .hint("`sendense-ctl vm list` shows it")
}

/// The rows of a new machine, checked.
pub(crate) fn plan_vm(new: NewVm) -> Result<(VmRow, Vec<VmDiskRow>)> {
    names::check_name("the machine's name", &new.name)?;
    let id = match new.uuid {
        Some(text) => VmId::parse(&text)?,
        None => VmId::generate(),
    };
    let mut disks: Vec<VmDiskRow> = Vec::with_capacity(new.disks.len());
    for disk in new.disks {
        let row = plan_disk(id, disk)?;
        if let Some(twin) = disks
            .iter()
            .find(|d| d.disk_id == row.disk_id || d.device_key == row.device_key)
        {
            return Err(Fault::invalid(format!(
                "disk {} ({}) and disk {} ({}) share a number or a device key",
                twin.disk_id, twin.device_key, row.disk_id, row.device_key
            )));
        }
        disks.push(row);
    }
    disks.sort_by_key(|d| d.disk_id);
    let row = VmRow {
        context_id: ContextId::of_vm(id, &new.name).as_str().to_owned(),
        id: id.to_string(),
        name: new.name,
        created_at: Time::now().micros(),
    };
    Ok((row, disks))
}

/// The row of a new disk, checked.
pub(crate) fn plan_disk(vm_id: VmId, disk: NewVmDisk) -> Result<VmDiskRow> {
    let number = DiskNumber::new(disk.disk_id)?;
    check_size(disk.disk_id, disk.size_bytes)?;
    let device_key = match disk.device_key {
        Some(text) => DeviceKey::parse(text)?,
        None => DeviceKey::of_number(number),
    };
    let source = disk.source.unwrap_or_else(|| "push".to_owned());
    names::check_name("the source", &source)?;
    Ok(VmDiskRow {
        vm_id: vm_id.to_string(),
        disk_id: disk.disk_id,
        device_key: device_key.as_str().to_owned(),
        size_bytes: disk.size_bytes,
        source,
    })
}

/// The largest disk: what an L1 table that QEMU opens can name with clusters of 64 KiB.
const MAX_DISK: u64 = 2 << 50;

/// The sizes that a disk may have: any number of bytes, but some.
pub(crate) fn check_size(disk_id: u32, size: u64) -> Result<()> {
    if size == 0 || size > MAX_DISK {
        return Err(Fault::invalid(format!(
            "disk {disk_id} has {size} bytes; a disk has 1 byte to 2 PiB"
        )));
    }
    Ok(())
}

fn view(row: VmRow, disks: Vec<VmDiskRow>) -> Vm {
    Vm {
        uuid: row.id.clone(),
        vm_id: row.id,
        context_id: row.context_id,
        name: row.name,
        created_at: Time::from_micros(row.created_at),
        disks: disks.into_iter().map(catalog::vm_disk_view).collect(),
    }
}
