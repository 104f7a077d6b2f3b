//! The disks of one machine, their volumes, and the file system on one of them.

use std::sync::Arc;

use sendense_engine::guest::volumes::Disk;
use sendense_engine::guest::{Blocks, FaultKind, FileSystem, OpenOptions, Session};

use crate::cli::DisksArgs;
use crate::open;
use crate::output::Failure;

/// Opens the images and the file systems on them.
pub(crate) fn session(args: &DisksArgs) -> Result<Session, Failure> {
    let mut disks = Vec::new();
    for (number, image) in (0..).zip(&args.images) {
        let blocks: Arc<dyn Blocks> = open::chain(image, &args.open)?;
        disks.push(Disk { number, blocks });
    }
    let options = OpenOptions {
        accept_stale: args.accept_stale,
        ..OpenOptions::default()
    };
    Ok(Session::in_process(&disks, &options)?)
}

/// Opens the file system on the volume with this id.
pub(crate) fn open_volume(args: &DisksArgs, id: &str) -> Result<Arc<dyn FileSystem>, Failure> {
    session(args)?
        .file_system(id)
        .map_err(|fault| match fault.kind {
            FaultKind::NotFound => Failure::new(
                fault.to_string(),
                "`sendense-image files IMAGE...` lists the volumes; give all disks of the machine",
            ),
            _ => fault.into(),
        })
}
