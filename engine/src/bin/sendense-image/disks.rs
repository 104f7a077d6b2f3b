//! The disks of one machine, their volumes, and the file system on one of them.

use std::sync::Arc;

use sendense_engine::guest::volumes::{Content, Disk, Volume, volumes};
use sendense_engine::guest::{self, Blocks, Cached, FileSystem, OpenOptions};

use crate::cli::DisksArgs;
use crate::open;
use crate::output::Failure;

/// Memory for what is read of one volume again and again, in bytes.
const CACHE: usize = 32 << 20;

/// Opens the images and finds the volumes on them.
pub(crate) fn find(args: &DisksArgs) -> Result<Vec<Volume>, Failure> {
    let mut disks = Vec::new();
    for (number, image) in (0..).zip(&args.images) {
        let blocks: Arc<dyn Blocks> = open::chain(image, &args.open)?;
        disks.push(Disk { number, blocks });
    }
    Ok(volumes(&disks)?)
}

/// Opens the file system on what a volume holds.
pub(crate) fn open(
    blocks: &Arc<dyn Blocks>,
    args: &DisksArgs,
) -> guest::Result<Box<dyn FileSystem>> {
    let options = OpenOptions {
        accept_stale: args.accept_stale,
        ..OpenOptions::default()
    };
    guest::open(Arc::new(Cached::new(Arc::clone(blocks), CACHE)), &options)
}

/// Opens the file system on the volume with this id.
pub(crate) fn open_volume(args: &DisksArgs, id: &str) -> Result<Box<dyn FileSystem>, Failure> {
    let all = find(args)?;
    let Some(volume) = all.iter().find(|volume| volume.id == id) else {
        let ids: Vec<&str> = all.iter().map(|volume| volume.id.as_str()).collect();
        return Err(Failure::new(
            format!("there is no volume {id:?}; there are {}", ids.join(", ")),
            "`sendense-image files IMAGE...` lists the volumes; give all disks of the machine",
        ));
    };
    match &volume.content {
        Content::Blocks { blocks, .. } => {
            open(blocks, args).map_err(|fault| fault.at(&volume.id).into())
        }
        Content::Unavailable(why) => Err(Failure::new(
            format!("{id}: {why}"),
            "`sendense-image files IMAGE...` lists the volumes; give all disks of the machine",
        )),
    }
}
