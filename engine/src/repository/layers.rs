//! Opening a restore point to read it: the images of one disk, newest first.
//!
//! The chain comes from the manifests. Each image is locked for reading, opened once per process,
//! and compared with what was sealed (length, header, backing name) before a byte of it is used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use sendense_formats::qcow2::{Header, is_image_size};

use super::backup_id::BackupId;
use super::checksums::ChecksumFile;
use super::ids::{DiskNumber, VmId};
use super::layout::disk_dir;
use super::points::VmPoints;
use super::sidecar::DiskRecord;
use super::store::{Inner, Repository, lock};
use crate::chain::{Checksums, LayerSource};
use crate::storage::{Create, File};
use crate::{Error, ErrorKind, Result};

/// One image of a restore point's chain.
#[derive(Debug, Clone)]
pub struct LayerFile {
    /// The image: shared, locked for reading as long as anybody has it.
    pub file: Arc<dyn File>,
    /// What it is.
    pub record: Arc<DiskRecord>,
    /// Its checksums.
    pub checksums: ChecksumFile,
}

impl From<&LayerFile> for LayerSource {
    fn from(layer: &LayerFile) -> Self {
        let name = format!("{} ({})", layer.record.image.file, layer.record.backup_id);
        // The sidecar knows the size to the byte.
        Self::qcow2(Arc::clone(&layer.file), name).with_disk(layer.record.virtual_size)
    }
}

impl Repository {
    /// The images of one disk of a restore point, newest first, the last one a full.
    pub fn layers(&self, vm: VmId, id: &BackupId, disk: DiskNumber) -> Result<Vec<LayerFile>> {
        let book = self.inner.book(vm);
        // Held while they are opened, so that none is deleted in between.
        let mut book = lock(&book);
        let points = book.points(&self.inner)?;
        open_layers(&self.inner, &points, id, disk)
    }
}

/// The same for whoever holds the VM's book.
pub(super) fn open_layers(
    inner: &Inner,
    points: &VmPoints,
    id: &BackupId,
    disk: DiskNumber,
) -> Result<Vec<LayerFile>> {
    let lineage = points.lineage(id, disk)?;
    let layers = lineage.into_iter().map(|record| open_layer(inner, record));
    layers.collect()
}

fn open_layer(inner: &Inner, record: Arc<DiskRecord>) -> Result<LayerFile> {
    let dir = disk_dir(record.vm_id, record.disk);
    open_layer_in(inner, &dir, record)
}

/// The same of files that lie in `dir`.
pub(super) fn open_layer_in(
    inner: &Inner,
    dir: &str,
    record: Arc<DiskRecord>,
) -> Result<LayerFile> {
    let damaged = |why: String| Error::new(ErrorKind::Damaged, why);
    let cluster = record
        .cluster()
        .ok_or_else(|| damaged(format!("{}: cluster size", record.backup_id)))?;
    let path = format!("{dir}/{}", record.checksums.file);
    let sums = inner.dir.open(&path, Create::OpenRead);
    let sums = sums.map_err(|e| missing_is_damage(inner, &path, e))?;
    let checksums = ChecksumFile::open(sums, &path, cluster, record.image.len)?;

    let path = format!("{dir}/{}", record.image.file);
    let file = inner
        .shared
        .get(&*inner.dir, &path, |file| {
            check(file, &path, &record, &checksums)
        })
        .map_err(|e| e.into_error(inner, &path))?;
    Ok(LayerFile {
        file,
        record,
        checksums,
    })
}

/// What was sealed and is not there is damage, not a wrong name in a request.
fn missing_is_damage(inner: &Inner, path: &str, e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        Error::with(ErrorKind::Damaged, format!("{path} is missing"), e)
    } else {
        inner.io(&format!("opening {path}"), e)
    }
}

enum Failed {
    Io(std::io::Error),
    Check(Error),
}

impl From<std::io::Error> for Failed {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

impl Failed {
    fn into_error(self, inner: &Inner, path: &str) -> Error {
        match self {
            Self::Io(e) => missing_is_damage(inner, path, e),
            Self::Check(e) => e,
        }
    }
}

/// Compares the image with what was sealed. Names are compared here and followed nowhere.
fn check(
    file: &dyn File,
    path: &str,
    record: &DiskRecord,
    checksums: &ChecksumFile,
) -> Result<(), Failed> {
    let damaged =
        |why: String| Failed::Check(Error::new(ErrorKind::Damaged, format!("{path}: {why}")));
    let len = file.len()?;
    if len != record.image.len {
        let sealed = record.image.len;
        return Err(damaged(format!("it has {len} bytes, sealed were {sealed}")));
    }
    let size = checksums.cluster().bytes().min(len);
    let mut first = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_at_blocking(0, &mut first)?;
    if !checksums
        .differing(0, &first)
        .map_err(Failed::Check)?
        .is_empty()
    {
        return Err(damaged("its header is not the one that was sealed".into()));
    }
    let header = Header::parse(&first, len).map_err(|e| Failed::Check(e.into()))?;
    let backing = header.backing.as_ref().map(|b| b.name.as_str());
    let parent = record.parent.as_ref().map(|p| p.file.as_str());
    if backing != parent {
        return Err(damaged(format!(
            "it names {backing:?}, its parent is {parent:?}"
        )));
    }
    if !is_image_size(header.virtual_size, record.virtual_size)
        || header.cluster != checksums.cluster()
    {
        return Err(damaged(
            "size or cluster size are not what was sealed".into(),
        ));
    }
    Ok(())
}

/// Checksums that are looked up at once.
const WINDOW: u64 = 1023;
/// Windows that are kept per layer.
const WINDOWS: usize = 64;

/// Checksums by the number of their window.
type Windows = HashMap<u64, Vec<u32>>;

/// The checksums of a whole chain, for reading it checked. Bounded memory: some windows per layer.
#[derive(Debug)]
pub struct LayerChecksums {
    layers: Vec<(ChecksumFile, Mutex<Windows>)>,
}

impl LayerChecksums {
    /// Those of these layers, in the same order.
    pub fn new(layers: &[LayerFile]) -> Self {
        let layer = |layer: &LayerFile| (layer.checksums.clone(), Mutex::default());
        Self {
            layers: layers.iter().map(layer).collect(),
        }
    }
}

impl Checksums for LayerChecksums {
    /// A checksum that cannot be read is none, which whoever reads checked takes for damage.
    fn crc(&self, depth: usize, cluster: u64) -> Option<u32> {
        let (file, kept) = self.layers.get(depth)?;
        let (number, index) = (cluster / WINDOW, usize::try_from(cluster % WINDOW).ok()?);
        let mut kept = lock(kept);
        if let Some(window) = kept.get(&number) {
            return window.get(index).copied();
        }
        let count = usize::try_from(WINDOW).ok()?;
        let window = file.sums(number * WINDOW, count).ok()?;
        let crc = window.get(index).copied();
        if kept.len() >= WINDOWS {
            kept.clear();
        }
        kept.insert(number, window);
        crc
    }
}
