//! What a start asks for, made whole: which machine, which disks, of which size, from where.
//!
//! Nothing is changed here. What a request leaves out comes from what is registered; what
//! contradicts it is refused.

use sendense_engine::repository::{
    BackupKind, ChangeToken, ContextId, DeviceKey, DiskNumber, VmId,
};
use sendense_formats::{ChangeList, ClusterSize, GuestRange};

use super::source::Place;
use crate::service::vms::{check_size, plan_vm};
use crate::service::{Fault, Result, Service, VmRef};
use crate::store::{VmDiskRow, VmRow};
use crate::types::{
    BackupType, Change, Code, ImageFormat, NewVm, NewVmDisk, StartBackup, StartDisk,
};

/// The most disks of one backup.
const MAX_DISKS: usize = 256;
const MIN_CLUSTER: u64 = 64 << 10;
const MAX_CLUSTER: u64 = 2 << 20;

/// A start, made whole.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) vm: VmId,
    pub(super) context: ContextId,
    pub(super) row: VmRow,
    /// The machine is new.
    pub(super) created: bool,
    pub(super) kind: BackupKind,
    /// The cluster size of its images.
    pub(super) cluster: ClusterSize,
    pub(super) disks: Vec<PlanDisk>,
}

/// One disk of it.
#[derive(Debug)]
pub(super) struct PlanDisk {
    pub(super) number: DiskNumber,
    pub(super) device_key: DeviceKey,
    pub(super) size: u64,
    pub(super) place: Place,
    /// The source as it was written.
    pub(super) source: String,
    pub(super) sparse: bool,
    pub(super) base: Option<ChangeToken>,
    pub(super) token: Option<ChangeToken>,
    pub(super) changes: Option<ChangeList>,
}

pub(super) fn kind(t: BackupType) -> BackupKind {
    match t {
        BackupType::Full => BackupKind::Full,
        BackupType::Incremental => BackupKind::Incremental,
        BackupType::Differential => BackupKind::Differential,
    }
}

impl Service {
    pub(super) async fn plan(&self, start: StartBackup) -> Result<Plan> {
        let vm = VmRef {
            name: start.vm_name.as_deref(),
            id: start.vm_id.as_deref(),
        };
        let cluster = cluster_size(start.cluster_size)?;
        let found = self.find_vm(vm).await?;
        let created = found.is_none();
        let specs = start.disks.unwrap_or_default();
        let (row, known) = match (found, &start.vm_name) {
            (Some(row), _) => {
                let disks = self.store().vm_disks(&row.id).await?;
                (row, disks)
            }
            (None, Some(name)) if start.backup_type == BackupType::Full && !specs.is_empty() => {
                new_vm(name, &specs)?
            }
            (None, name) => {
                return Err(Fault::new(
                    Code::VmNotFound,
                    format!(
                        "no machine {:?} is registered",
                        name.as_deref().unwrap_or_default()
                    ),
                ));
            }
        };
        let specs = if specs.is_empty() {
            let all = known.iter().map(|d| StartDisk {
                disk_id: d.disk_id,
                ..StartDisk::default()
            });
            all.collect()
        } else {
            specs
        };
        if specs.is_empty() || specs.len() > MAX_DISKS {
            return Err(Fault::invalid(format!(
                "{} has {} disks to back up; there must be 1 to {MAX_DISKS}",
                row.name,
                specs.len()
            ))
            .hint("name the disks: disks: [{disk_id, size_bytes}]"));
        }
        let kind = kind(start.backup_type);
        let mut disks: Vec<PlanDisk> = Vec::with_capacity(specs.len());
        for spec in specs {
            let disk = self.plan_disk(kind, spec, &known).await?;
            if let Some(twin) = disks
                .iter()
                .find(|d| d.number == disk.number || d.device_key == disk.device_key)
            {
                return Err(Fault::invalid(format!(
                    "disk {} ({}) and disk {} ({}) share a number or a device key",
                    twin.number, twin.device_key, disk.number, disk.device_key
                )));
            }
            disks.push(disk);
        }
        disks.sort_by_key(|d| d.number);
        Ok(Plan {
            vm: VmId::parse(&row.id)?,
            context: ContextId::parse(row.context_id.as_str())?,
            row,
            created,
            kind,
            cluster,
            disks,
        })
    }

    async fn plan_disk(
        &self,
        kind: BackupKind,
        spec: StartDisk,
        known: &[VmDiskRow],
    ) -> Result<PlanDisk> {
        let number = DiskNumber::new(spec.disk_id)?;
        let registered = known.iter().find(|d| d.disk_id == spec.disk_id);
        let device_key = identity(number, spec.device_key, registered, known)?;
        let source = spec
            .source
            .or_else(|| registered.map(|d| d.source.clone()))
            .unwrap_or_else(|| "push".to_owned());
        let place = Place::parse(&source)?;
        let found = match &place {
            Place::Push => None,
            place => {
                let about = |f: Fault| f.about(format!("disk {number}"));
                let (size, container) = self.look_at(place).await.map_err(about)?;
                check_format(spec.source_format, container).map_err(about)?;
                Some(size)
            }
        };
        if found.is_none() && spec.source_format.is_some() {
            return Err(Fault::invalid(format!(
                "disk {number}: source_format is for a source that the daemon reads itself"
            )));
        }
        let size = match (spec.size_bytes, found) {
            (Some(said), Some(found)) if said != found => {
                return Err(Fault::invalid(format!(
                    "disk {number}: size_bytes says {said}, the source has {found} bytes"
                )));
            }
            (said, found) => said
                .or(found)
                .or_else(|| registered.map(|d| d.size_bytes))
                .ok_or_else(|| {
                    Fault::invalid(format!("disk {number} is new: size_bytes is needed"))
                })?,
        };
        check_size(spec.disk_id, size)?;
        let changes = spec
            .changes
            .map(|c| change_list(number, &c, size))
            .transpose()?;
        if kind == BackupKind::Full && changes.is_some() {
            return Err(Fault::invalid(format!(
                "disk {number}: a full takes no changes"
            )));
        }
        if spec.sparse && (kind != BackupKind::Full || place != Place::Push) {
            return Err(Fault::invalid(format!(
                "disk {number}: sparse is for a pushed full alone"
            )));
        }
        let token = |t: Option<String>| t.map(ChangeToken::parse).transpose();
        Ok(PlanDisk {
            number,
            device_key,
            size,
            place,
            source,
            sparse: spec.sparse,
            base: token(spec.base_change_id)?,
            token: token(spec.change_id)?,
            changes,
        })
    }
}

/// The cluster sizes that images are written with. Each image has its own: an overlay may differ
/// from what it builds on.
fn cluster_size(bytes: Option<u64>) -> Result<ClusterSize> {
    let Some(bytes) = bytes else {
        return Ok(ClusterSize::DEFAULT);
    };
    ClusterSize::from_bytes(bytes)
        .filter(|_| (MIN_CLUSTER..=MAX_CLUSTER).contains(&bytes))
        .ok_or_else(|| {
            Fault::invalid(format!("cluster_size is {bytes}")).hint(format!(
                "it is a power of two, {MIN_CLUSTER} to {MAX_CLUSTER} bytes; {MIN_CLUSTER} where \
                 it is left out"
            ))
        })
}

/// A source is read byte for byte, as the disk itself. One that is a disk image in a format of its
/// own would become a restore point of the container, which nobody can boot: only whoever says
/// `raw` means that.
fn check_format(said: Option<ImageFormat>, container: Option<&str>) -> Result<()> {
    match (said, container) {
        (Some(ImageFormat::Raw), _) | (None, None) => Ok(()),
        (Some(ImageFormat::Qcow2), _) => Err(Fault::new(
            Code::Unsupported,
            "a source is read raw; source_format qcow2 is not read yet",
        )
        .hint("convert it with `sendense-image convert`, or serve its content over NBD")),
        (None, Some(format)) => Err(Fault::new(
            Code::Unsupported,
            format!(
                "the source is a {format} image, and would be backed up as if it were the disk"
            ),
        )
        .hint(
            "convert it to raw (`sendense-image convert`, `qemu-img convert`) or serve its content \
             over NBD; where these bytes are the disk itself, say source_format: \"raw\" \
             (--disk N,format=raw)",
        )),
    }
}

fn new_vm(name: &str, specs: &[StartDisk]) -> Result<(VmRow, Vec<VmDiskRow>)> {
    let (row, _) = plan_vm(NewVm {
        name: name.to_owned(),
        uuid: None,
        disks: Vec::<NewVmDisk>::new(),
    })?;
    if let Some(spec) = specs
        .iter()
        .find(|s| s.size_bytes.is_none() && s.source.as_deref().is_none_or(|s| s == "push"))
    {
        return Err(Fault::new(
            Code::VmNotFound,
            format!(
                "no machine {name:?} is registered, and disk {} brings no size_bytes",
                spec.disk_id
            ),
        ));
    }
    Ok((row, Vec::new()))
}

/// A number is one device and a device is one number, for ever.
fn identity(
    number: DiskNumber,
    given: Option<String>,
    registered: Option<&VmDiskRow>,
    known: &[VmDiskRow],
) -> Result<DeviceKey> {
    let mismatch = |detail: String| Err(Fault::new(Code::DiskIdentity, detail));
    match (given, registered) {
        (None, Some(row)) => Ok(DeviceKey::parse(row.device_key.as_str())?),
        (Some(key), Some(row)) if key != row.device_key => mismatch(format!(
            "disk {number} is device {}, not {key}",
            row.device_key
        )),
        (given, _) => {
            let key = match given {
                Some(text) => DeviceKey::parse(text)?,
                None => DeviceKey::of_number(number),
            };
            let other = known
                .iter()
                .find(|d| d.device_key == key.as_str() && d.disk_id != number.get());
            match other {
                Some(d) => mismatch(format!("device {key} is disk {}, not {number}", d.disk_id)),
                None => Ok(key),
            }
        }
    }
}

fn change_list(disk: DiskNumber, changes: &[Change], size: u64) -> Result<ChangeList> {
    let mut ranges = Vec::with_capacity(changes.len());
    for c in changes {
        let range = GuestRange::new(c.offset, c.length)
            .filter(|r| !r.is_empty() && r.end().get() <= size)
            .ok_or_else(|| {
                Fault::invalid(format!(
                    "disk {disk}: the change at {} of {} bytes is empty or ends beyond {size}",
                    c.offset, c.length
                ))
            })?;
        ranges.push(range);
    }
    Ok(ChangeList::from_unsorted(ranges))
}
