//! One file of a chain: its header and L1 table in memory, its L2 tables read when asked for.

use std::fmt;
use std::sync::Arc;

use sendense_formats::qcow2::{
    Image, L2Kind, Mapping, OpenPolicy, OpenStep, Opener, TableAt, Target,
};
use sendense_formats::{GuestRange, HostOffset};

use super::checked::Checked;
use super::piece::Content;
use crate::storage::File;
use crate::{Error, ErrorKind, Result};

/// What QEMU rounds the size of a raw file up to.
pub(super) const SECTOR: u64 = 512;

/// What the bytes of a layer's file are. Stated by whoever opens the chain, never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// A QCOW2 image.
    Qcow2,
    /// The disk itself; only at the bottom of a chain.
    Raw,
}

/// A file to be opened as a layer.
#[derive(Debug, Clone)]
pub struct LayerSource {
    /// The file.
    pub file: Arc<dyn File>,
    /// What its bytes are.
    pub format: LayerFormat,
    /// How messages name it.
    pub name: String,
}

impl LayerSource {
    /// A QCOW2 layer.
    pub fn qcow2(file: Arc<dyn File>, name: impl Into<String>) -> Self {
        Self {
            file,
            format: LayerFormat::Qcow2,
            name: name.into(),
        }
    }

    /// A raw layer.
    pub fn raw(file: Arc<dyn File>, name: impl Into<String>) -> Self {
        Self {
            file,
            format: LayerFormat::Raw,
            name: name.into(),
        }
    }
}

impl From<Arc<dyn File>> for LayerSource {
    fn from(file: Arc<dyn File>) -> Self {
        Self::qcow2(file, "the image")
    }
}

/// An opened layer.
pub struct Layer {
    name: String,
    file: Arc<dyn File>,
    len: u64,
    size: u64,
    image: Option<Image>,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Layer {
    /// Reads header and L1 table.
    pub(super) fn open(source: LayerSource, policy: &OpenPolicy) -> Result<Self> {
        let LayerSource { file, format, name } = source;
        let len = file.len().map_err(|e| Error::io(name.clone(), e))?;
        let image = match format {
            LayerFormat::Raw => None,
            LayerFormat::Qcow2 => {
                let mut opener = Opener::new(len, policy.clone());
                loop {
                    match opener.step().map_err(|e| named(&name, e))? {
                        OpenStep::Done(image) => break Some(image),
                        OpenStep::Need { at, len } => {
                            let mut bytes = vec![0; len];
                            file.read_at_blocking(at.get(), &mut bytes)
                                .map_err(|e| Error::io(name.clone(), e))?;
                            opener.give(bytes);
                        }
                    }
                }
            }
        };
        let size = image.as_ref().map_or(len, Image::virtual_size);
        Ok(Self {
            name,
            file,
            len,
            size,
            image,
        })
    }

    /// How messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The file's length when it was opened.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The bytes of the disk as this layer sees it.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the layer ends for those above it: a raw file ends on a sector, as in QEMU.
    pub(super) fn end(&self) -> u64 {
        match &self.image {
            Some(_) => self.size,
            None => self.size.next_multiple_of(SECTOR),
        }
    }

    /// The image; `None` for a raw layer.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// The backing file that its header names. Untrusted text.
    pub fn backing(&self) -> Option<&str> {
        let backing = self.image.as_ref()?.header().backing.as_ref()?;
        Some(&backing.name)
    }

    /// The smallest unit in which its map can change.
    pub(super) fn granule(&self) -> u64 {
        self.image.as_ref().map_or(u64::MAX, |image| {
            let cluster = image.cluster().bytes();
            if image.header().extended_l2() {
                cluster / 32
            } else {
                cluster
            }
        })
    }

    /// What this layer says about `range`, which lies inside of its size. Blocking.
    pub(super) fn map(
        &self,
        range: GuestRange,
        checked: Option<&Checked<'_>>,
        emit: &mut dyn FnMut(GuestRange, Content),
    ) -> Result<()> {
        match &self.image {
            Some(image) => self.map_image(image, range, checked, emit),
            None => self.map_raw(range, emit),
        }
    }

    fn map_raw(&self, range: GuestRange, emit: &mut dyn FnMut(GuestRange, Content)) -> Result<()> {
        let (mut at, end) = (range.start().get(), range.end().get().min(self.size));
        let padding = range.end().get().saturating_sub(self.size.max(at));
        let extents = self
            .file
            .extents(at, end.saturating_sub(at))
            .map_err(|e| Error::io(self.name.clone(), e))?;
        for extent in extents {
            let stop = extent.at.saturating_add(extent.len).min(end);
            if extent.at > at || stop <= at {
                continue;
            }
            let host = HostOffset::new(at);
            let content = if extent.hole {
                Content::Zero { host: Some(host) }
            } else {
                Content::Data { host }
            };
            if let Some(range) = GuestRange::new(at, stop - at) {
                emit(range, content);
            }
            at = stop;
        }
        // What the file system did not tell about is read.
        if let Some(rest) = GuestRange::new(at, end.saturating_sub(at))
            && !rest.is_empty()
        {
            let host = HostOffset::new(at);
            emit(rest, Content::Data { host });
            at = end;
        }
        if let Some(range) = GuestRange::new(at, padding)
            && padding > 0
        {
            let host = Some(HostOffset::new(at));
            emit(range, Content::Zero { host });
        }
        Ok(())
    }

    fn map_image(
        &self,
        image: &Image,
        range: GuestRange,
        checked: Option<&Checked<'_>>,
        emit: &mut dyn FnMut(GuestRange, Content),
    ) -> Result<()> {
        let per_table = image.bytes_per_table();
        let extended = image.header().extended_l2();
        let mut at = range.start().get();
        let end = range.end().get();
        while at < end {
            let index = at / per_table;
            let table_start = index.saturating_mul(per_table);
            let stop = table_start.saturating_add(per_table).min(end);
            let Some(part) = GuestRange::new(at, stop - at) else {
                break;
            };
            let table = match image.table(index).map_err(|e| named(&self.name, e))? {
                TableAt::Absent => None,
                TableAt::At { host, len } => {
                    Some(self.read_table(image, table_start, part, host, len, checked)?)
                }
            };
            let mappings = image
                .map_table(index, table.as_deref(), part)
                .map_err(|e| named(&self.name, e))?;
            for Mapping { range, target } in mappings {
                let content = match target {
                    Target::Unallocated => match table.as_deref().filter(|_| extended) {
                        Some(table) => {
                            kept(image, table, table_start, range, emit);
                            continue;
                        }
                        None => Content::Unallocated { host: None },
                    },
                    Target::Zero { host } => Content::Zero { host },
                    Target::Data { host } => Content::Data { host },
                    Target::Compressed { host, len } => Content::Compressed { host, len },
                };
                emit(range, content);
            }
            at = stop;
        }
        Ok(())
    }

    /// The L2 table, of which only the entries for `part` are read (one table may cover 512 GiB);
    /// the others stay zero and are not asked for.
    fn read_table(
        &self,
        image: &Image,
        table_start: u64,
        part: GuestRange,
        host: HostOffset,
        len: usize,
        checked: Option<&Checked<'_>>,
    ) -> Result<Vec<u8>> {
        let mut table = vec![0; len];
        if let Some(checked) = checked {
            checked.read(self, host.get(), &mut table)?;
            return Ok(table);
        }
        let cluster = image.cluster().bytes();
        let entry = if image.header().extended_l2() { 16 } else { 8 };
        let first = (part.start().get() - table_start) / cluster * entry;
        let last = (part.end().get() - table_start).div_ceil(cluster) * entry;
        let (Ok(from), Ok(to)) = (usize::try_from(first), usize::try_from(last)) else {
            return Err(self.damaged("an L2 table is longer than memory"));
        };
        if let Some(slice) = table.get_mut(from..to) {
            self.file
                .read_at_blocking(host.get().saturating_add(first), slice)
                .map_err(|e| Error::io(self.name.clone(), e))?;
        }
        Ok(table)
    }

    pub(super) fn damaged(&self, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Damaged, format!("{}: {what}", self.name))
    }
}

/// Splits unallocated guest bytes of an image with subclusters by the host clusters that are kept
/// for them: QEMU's map tells those.
fn kept(
    image: &Image,
    table: &[u8],
    table_start: u64,
    range: GuestRange,
    emit: &mut dyn FnMut(GuestRange, Content),
) {
    let shape = image.header().shape();
    let cluster = shape.cluster.bytes();
    let mut at = range.start().get();
    let end = range.end().get();
    while at < end {
        let start = at - at % cluster;
        let stop = start.saturating_add(cluster).min(end);
        let entry = shape.entry(table, (start - table_start) / cluster);
        let host = match entry.map(|e| e.kind(shape)) {
            Some(L2Kind::Data(host)) => host.checked_add(at - start),
            _ => None,
        };
        if let Some(range) = GuestRange::new(at, stop - at) {
            emit(range, Content::Unallocated { host });
        }
        at = stop;
    }
}

/// A format error with the layer's name in front.
pub(super) fn named(name: &str, e: sendense_formats::Error) -> Error {
    let mut e = Error::from(e);
    name.clone_into(&mut e.at);
    e
}
