//! Opening the disk that a declaration names, without serving it yet.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sendense_nbd::ExportInfo;

use super::disks::{DiskId, Mode, OpenDisks};
use super::keys::{Declared, DeclaredFormat};
use crate::chain::offline::{self, Follow, OpenFile};
use crate::chain::{Chain, ChainOptions, LayerFormat};
use crate::export::{FileExportOptions, FileSource, RestoreSource};
use crate::plane::Source;
use crate::storage::local::{open_beneath, open_path};
use crate::storage::{Create, File, LockKind, LockedFile};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// A connection that has just ended lets go of its disk within this time.
const LETTING_GO: Duration = Duration::from_millis(300);

/// An opened declaration.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    pub(super) source: Arc<dyn Source>,
    /// The raw disk and whether it is open for writing; none for an image.
    pub(super) disk: Option<(DiskId, bool)>,
}

/// A declaration whose disk was looked at.
#[derive(Debug)]
pub(super) enum Prepared {
    /// It is open and locked as it has to be.
    Ready(Opened),
    /// Nothing is wrong with it, but we hold the disk in another way until others let go.
    Later(DiskId),
}

/// Why a disk is not open.
enum Failure {
    /// Something of ours has it open.
    Ours(String),
    /// Anything else.
    Other(String),
}

impl Failure {
    fn at(path: &str, why: impl Display) -> Self {
        Self::Other(format!("{path}: {why}"))
    }

    fn ours(path: &str) -> Self {
        Self::Ours(format!(
            "{path} is still open here in another way, for another export or for clients of a \
             removed one: reload when they have gone"
        ))
    }

    fn text(self) -> String {
        match self {
            Self::Ours(text) | Self::Other(text) => text,
        }
    }
}

/// Checks all about a declaration that does not depend on who uses its disk now, and opens it
/// where nothing of ours is in the way. `writable` is whether any declaration of this disk writes.
/// What is wrong comes back as one sentence.
pub(super) fn prepare(
    d: &Declared,
    disks: &mut OpenDisks,
    writable: bool,
) -> Result<Prepared, String> {
    let id = identify(d).map_err(Failure::text)?;
    if let (DeclaredFormat::Raw, Some((file, open_writable))) = (d.format, disks.raw(id)) {
        let fresh = raw_file(d, writable).map_err(Failure::text)?;
        let size = check(d, &fresh).map_err(Failure::text)?;
        // A device that became larger has its new size only once it is opened again.
        let as_it_is = file.len().ok() == fresh.len().ok();
        return Ok(if open_writable == writable && as_it_is {
            Prepared::Ready(serve(d, file, size, (id, writable)))
        } else {
            Prepared::Later(id)
        });
    }
    match try_open(d, disks, writable) {
        Ok(opened) => Ok(Prepared::Ready(opened)),
        Err(Failure::Ours(_)) => {
            match d.format {
                DeclaredFormat::Raw => {
                    raw_file(d, writable).and_then(|file| check(d, &file).map(drop))
                }
                DeclaredFormat::Qcow2 => chain(d, &Reader::new(disks, false)).map(drop),
            }
            .map_err(Failure::text)?;
            Ok(Prepared::Later(id))
        }
        Err(Failure::Other(why)) => Err(why),
    }
}

/// Opens and locks the disk of a declaration. What is wrong comes back as one sentence.
pub(super) fn open(d: &Declared, disks: &mut OpenDisks, writable: bool) -> Result<Opened, String> {
    let end = Instant::now() + LETTING_GO;
    loop {
        match try_open(d, disks, writable) {
            Ok(opened) => return Ok(opened),
            Err(Failure::Ours(_)) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(failure) => return Err(failure.text()),
        }
    }
}

fn try_open(d: &Declared, disks: &mut OpenDisks, writable: bool) -> Result<Opened, Failure> {
    match d.format {
        DeclaredFormat::Raw => raw(d, disks, writable),
        DeclaredFormat::Qcow2 => qcow2(d, disks),
    }
}

fn identify(d: &Declared) -> Result<DiskId, Failure> {
    DiskId::of(Path::new(&d.path)).map_err(|e| Failure::at(&d.path, e))
}

fn raw(d: &Declared, disks: &mut OpenDisks, writable: bool) -> Result<Opened, Failure> {
    let id = identify(d)?;
    let (file, writable) = match disks.raw(id) {
        Some((_, false)) if !d.readonly => return Err(Failure::ours(&d.path)),
        Some(open) => open,
        None => (lock(d, disks, id, writable)?, writable),
    };
    let size = check(d, &file)?;
    Ok(serve(d, file, size, (id, writable)))
}

/// Opens a raw disk that nothing of ours has open as one, and locks it.
fn lock(
    d: &Declared,
    disks: &mut OpenDisks,
    id: DiskId,
    writable: bool,
) -> Result<Arc<dyn File>, Failure> {
    let file = raw_file(d, writable)?;
    if identify(d)? != id {
        return Err(Failure::at(&d.path, "it was replaced just now"));
    }
    let (kind, mode) = if writable {
        (LockKind::Writer, Mode::Write)
    } else {
        (LockKind::Reader, Mode::Read)
    };
    let file = LockedFile::lock(file, kind).map_err(|e| {
        if e.kind() == io::ErrorKind::WouldBlock && disks.ours(id) {
            Failure::ours(&d.path)
        } else {
            Failure::at(&d.path, e)
        }
    })?;
    disks.note(id, mode, &file);
    Ok(file)
}

fn raw_file(d: &Declared, writable: bool) -> Result<Arc<dyn File>, Failure> {
    let how = if writable {
        Create::OpenWrite
    } else {
        Create::OpenRead
    };
    open_path(Path::new(&d.path), how).map_err(|e| Failure::at(&d.path, e))
}

/// Whether a raw disk is what its declaration says; the bytes to serve.
fn check(d: &Declared, file: &Arc<dyn File>) -> Result<u64, Failure> {
    let at = |e: io::Error| Failure::at(&d.path, e);
    let len = file.len().map_err(at)?;
    let size = d.filesize.unwrap_or(len);
    if size > len {
        return Err(Failure::Other(format!(
            "{} has {len} bytes, less than its filesize {size}",
            d.path
        )));
    }
    // On a device whatever its guest writes may look like an image; a file that looks like one
    // most likely is one, and its bytes are not the disk.
    let is_file = std::fs::metadata(&d.path).is_ok_and(|m| m.is_file());
    if is_file && !d.format_stated {
        let mut magic = [0; 4];
        file.read_at_blocking(0, &mut magic).map_err(at)?;
        if magic == MAGIC {
            return Err(Failure::Other(format!(
                "{} begins like a QCOW2 image: say `format = qcow2` (read-only), or `format = raw` \
                 to serve the file's own bytes",
                d.path
            )));
        }
    }
    Ok(size)
}

fn serve(d: &Declared, file: Arc<dyn File>, size: u64, disk: (DiskId, bool)) -> Opened {
    let options = FileExportOptions {
        info: info(d, size),
        sync: d.sync,
    };
    Opened {
        source: Arc::new(FileSource::new(file, options)),
        disk: Some(disk),
    }
}

fn qcow2(d: &Declared, disks: &mut OpenDisks) -> Result<Opened, Failure> {
    let chain = chain(d, &Reader::new(disks, true))?;
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

fn chain(d: &Declared, reader: &Reader<'_>) -> Result<Arc<Chain>, Failure> {
    let other = |text: &str| Failure::Other(text.to_owned());
    if !d.readonly {
        return Err(other(
            "a QCOW2 image is served read-only: say `readonly = true`",
        ));
    }
    if d.filesize.is_some() {
        return Err(other("`filesize` is not supported for a QCOW2 image"));
    }
    offline::open(
        reader,
        Path::new(&d.path),
        LayerFormat::Qcow2,
        &Follow::Beneath,
        ChainOptions::default(),
    )
    .map_err(|e| {
        if reader.ours.get() {
            Failure::ours(&d.path)
        } else {
            Failure::Other(e.to_string())
        }
    })
}

/// Opens the layers of an image, locked for reading, or without a lock to look at them only.
struct Reader<'a> {
    disks: RefCell<&'a mut OpenDisks>,
    locks: bool,
    /// A lock that failed may be our own.
    ours: Cell<bool>,
}

impl<'a> Reader<'a> {
    fn new(disks: &'a mut OpenDisks, locks: bool) -> Self {
        Self {
            disks: RefCell::new(disks),
            locks,
            ours: Cell::new(false),
        }
    }

    fn lock(&self, file: Arc<dyn File>, path: &Path) -> io::Result<Arc<dyn File>> {
        if !self.locks {
            return Ok(file);
        }
        let id = DiskId::of(path)?;
        let mut disks = self.disks.borrow_mut();
        let locked = LockedFile::lock(file, LockKind::Reader);
        match &locked {
            Ok(file) => disks.note(id, Mode::Layer, file),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ours.set(disks.ours(id)),
            Err(_) => {}
        }
        locked
    }
}

impl OpenFile for Reader<'_> {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.lock(open_path(path, Create::OpenRead)?, path)
    }

    fn open_beneath(&self, dir: &Path, name: &str) -> io::Result<Arc<dyn File>> {
        let file = open_beneath(dir, name, Create::OpenRead)?;
        self.lock(file, &dir.join(name))
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
