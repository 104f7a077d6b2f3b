//! Opening the disk that a declaration names, without serving it yet.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sendense_nbd::ExportInfo;

use super::keys::{Declared, DeclaredFormat};
use crate::chain::offline::{self, Follow, OpenFile};
use crate::chain::{ChainOptions, LayerFormat};
use crate::export::{FileExportOptions, FileSource, RestoreSource};
use crate::plane::Source;
use crate::storage::local::{open_beneath, open_path};
use crate::storage::{Create, File, LockKind, LockedFile};

const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Raw disks that are open, by path: two exports of one disk share one descriptor, since two
/// would exclude each other.
#[derive(Debug, Default, Clone)]
pub(super) struct OpenDisks {
    disks: HashMap<String, OpenDisk>,
}

/// A raw disk that is open and locked.
#[derive(Debug, Clone)]
struct OpenDisk {
    file: Arc<dyn File>,
    writable: bool,
}

impl OpenDisks {
    pub(super) fn keep(&mut self, path: &str, file: Arc<dyn File>, writable: bool) {
        let disk = OpenDisk { file, writable };
        self.disks.insert(path.to_owned(), disk);
    }

    /// The disk of a declaration: the one that is open, or opened now. `writable` is whether any
    /// of the declarations that share it writes.
    fn raw(&mut self, d: &Declared, writable: bool) -> Result<Arc<dyn File>, String> {
        if let Some(disk) = self.disks.get(&d.path) {
            if !d.readonly && !disk.writable {
                return Err(format!(
                    "{} is served read-only by another export: remove that one first",
                    d.path
                ));
            }
            return Ok(disk.file.clone());
        }
        let (how, kind) = if writable {
            (Create::OpenWrite, LockKind::Writer)
        } else {
            (Create::OpenRead, LockKind::Reader)
        };
        let opened = open_path(Path::new(&d.path), how);
        let locked = opened.and_then(|file| LockedFile::lock(file, kind));
        let file = locked.map_err(|e| format!("{}: {e}", d.path))?;
        self.keep(&d.path, file.clone(), writable);
        Ok(file)
    }
}

/// An opened declaration.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) source: Arc<dyn Source>,
    /// The raw disk and whether it is open for writing; none for an image.
    pub(super) disk: Option<(Arc<dyn File>, bool)>,
}

/// Opens the disk of a declaration. What is wrong comes back as one sentence.
pub(super) fn open(d: &Declared, disks: &mut OpenDisks, writable: bool) -> Result<Opened, String> {
    match d.format {
        DeclaredFormat::Raw => raw(d, disks, writable),
        DeclaredFormat::Qcow2 => qcow2(d),
    }
}

fn raw(d: &Declared, disks: &mut OpenDisks, writable: bool) -> Result<Opened, String> {
    let file = disks.raw(d, writable)?;
    let at = |e: io::Error| format!("{}: {e}", d.path);
    let len = file.len().map_err(at)?;
    let size = d.filesize.unwrap_or(len);
    if size > len {
        return Err(format!(
            "{} has {len} bytes, less than its filesize {size}",
            d.path
        ));
    }
    // On a device whatever its guest writes may look like an image; a file that looks like one
    // most likely is one, and its bytes are not the disk.
    let is_file = std::fs::metadata(&d.path).is_ok_and(|m| m.is_file());
    if is_file && !d.format_stated {
        let mut magic = [0; 4];
        file.read_at_blocking(0, &mut magic).map_err(at)?;
        if magic == MAGIC {
            return Err(format!(
                "{} begins like a QCOW2 image: say `format = qcow2` (read-only), or `format = raw` \
                 to serve the file's own bytes",
                d.path
            ));
        }
    }
    let info = info(d, size);
    let options = FileExportOptions { info, sync: d.sync };
    let disk = disks
        .disks
        .get(&d.path)
        .map(|d| (d.file.clone(), d.writable));
    Ok(Opened {
        source: Arc::new(FileSource::new(file, options)),
        disk,
    })
}

fn qcow2(d: &Declared) -> Result<Opened, String> {
    if !d.readonly {
        return Err("a QCOW2 image is served read-only: say `readonly = true`".into());
    }
    if d.filesize.is_some() {
        return Err("`filesize` is not supported for a QCOW2 image".into());
    }
    let path = Path::new(&d.path);
    let format = LayerFormat::Qcow2;
    let chain = offline::open(
        &Reader,
        path,
        format,
        &Follow::Beneath,
        ChainOptions::default(),
    );
    let chain = chain.map_err(|e| e.to_string())?;
    let source = RestoreSource::new(chain).with_info(|told| {
        let contexts = std::mem::take(&mut told.contexts);
        *told = ExportInfo {
            contexts,
            ..info(d, told.size)
        };
    });
    Ok(Opened {
        source: Arc::new(source),
        disk: None,
    })
}

/// Opens the layers of an image, locked for reading.
struct Reader;

impl OpenFile for Reader {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        LockedFile::lock(open_path(path, Create::OpenRead)?, LockKind::Reader)
    }

    fn open_beneath(&self, dir: &Path, name: &str) -> io::Result<Arc<dyn File>> {
        LockedFile::lock(open_beneath(dir, name, Create::OpenRead)?, LockKind::Reader)
    }
}

fn info(d: &Declared, size: u64) -> ExportInfo {
    ExportInfo {
        can_flush: d.flush || d.fua,
        can_trim: d.trim && !d.readonly,
        multi_conn: d.multiconn,
        rotational: d.rotational,
        description: d.description.clone(),
        ..if d.readonly {
            ExportInfo::read_only(size)
        } else {
            ExportInfo::writable(size)
        }
    }
}
