//! `sendense-ctl vm`.

use super::{Context, Result, args, job, output};
use crate::types::NewVm;

pub(super) fn run(c: &Context, verb: args::Vm) -> Result<()> {
    match verb {
        args::Vm::List => {
            let mut all = c.client.vms(None, Some(job::PAGE))?;
            while let Some(cursor) = all.next_cursor.take() {
                let page = c.client.vms(Some(&cursor), Some(job::PAGE))?;
                all.vms.extend(page.vms);
                all.next_cursor = page.next_cursor;
            }
            output::show(c, &all, output::vms)
        }
        args::Vm::Show { vm } => output::show(c, &c.client.vm(&vm)?, output::vm),
        args::Vm::Add { name, uuid, disks } => {
            let vm = c.client.add_vm(&NewVm {
                name,
                uuid,
                disks: disks.into_iter().map(|d| d.0).collect(),
            })?;
            output::show(c, &vm, output::vm)
        }
    }
}
