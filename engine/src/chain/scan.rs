//! What one layer says about the parts of a window that the layers above leave open.
//!
//! There may be thousands of parts: each table of the layer is read once for all of them, and only
//! its entries for the window (one table may cover 512 GiB).

use sendense_formats::qcow2::{Image, L2Kind, Mapping, TableAt, Target};
use sendense_formats::{GuestRange, HostOffset};

use super::checked::Checked;
use super::layer::{Layer, named};
use super::piece::Content;
use crate::storage::Extent;
use crate::{Error, Result};

/// Looks at one layer within one window.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    layer: &'a Layer,
    window: GuestRange,
    checked: Option<Checked<'a>>,
    /// The L2 table that was looked at last; none where the image has none there.
    table: Option<(u64, Option<Vec<u8>>)>,
    /// The extents of a raw file.
    extents: Option<Vec<Extent>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(layer: &'a Layer, window: GuestRange, checked: Option<Checked<'a>>) -> Self {
        Self {
            layer,
            window,
            checked,
            table: None,
            extents: None,
        }
    }

    /// What the layer says about `range`, which lies in the window and before the layer's end;
    /// ranges come in ascending order. Blocking.
    pub(super) fn map(
        &mut self,
        range: GuestRange,
        emit: &mut dyn FnMut(GuestRange, Content),
    ) -> Result<()> {
        match self.layer.image() {
            Some(image) => self.map_image(image, range, emit),
            None => self.map_raw(range, emit),
        }
    }

    fn map_raw(
        &mut self,
        range: GuestRange,
        emit: &mut dyn FnMut(GuestRange, Content),
    ) -> Result<()> {
        let size = self.layer.size();
        if self.extents.is_none() {
            let at = self.window.start().get();
            let len = self.window.end().get().min(size).saturating_sub(at);
            let extents = self.layer.file().extents(at, len);
            self.extents = Some(extents.map_err(|e| Error::io(self.layer.name(), e))?);
        }
        let extents = self.extents.as_deref().unwrap_or_default();
        let (mut at, end) = (range.start().get(), range.end().get().min(size));
        let first = extents.partition_point(|e| e.at.saturating_add(e.len) <= at);
        for extent in extents.iter().skip(first) {
            let stop = extent.at.saturating_add(extent.len).min(end);
            if extent.at > at || stop <= at {
                break;
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
        if let Some(rest) = GuestRange::new(at, end.saturating_sub(at)).filter(|r| !r.is_empty()) {
            let host = HostOffset::new(at);
            emit(rest, Content::Data { host });
            at = end;
        }
        // The rest of the last sector.
        let padding = range.end().get().saturating_sub(at);
        if let Some(range) = GuestRange::new(at, padding).filter(|r| !r.is_empty()) {
            let host = Some(HostOffset::new(at));
            emit(range, Content::Zero { host });
        }
        Ok(())
    }

    fn map_image(
        &mut self,
        image: &Image,
        range: GuestRange,
        emit: &mut dyn FnMut(GuestRange, Content),
    ) -> Result<()> {
        let layer = self.layer;
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
            let table = self.table(image, index)?;
            let mappings = image
                .map_table(index, table, part)
                .map_err(|e| named(layer.name(), e))?;
            for Mapping { range, target } in mappings {
                let content = match target {
                    Target::Unallocated => match table.filter(|_| extended) {
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

    /// The L2 table `index`, its entries for the window at least; `None` where there is none.
    fn table(&mut self, image: &Image, index: u64) -> Result<Option<&[u8]>> {
        if self.table.as_ref().is_none_or(|(last, _)| *last != index) {
            let at = image
                .table(index)
                .map_err(|e| named(self.layer.name(), e))?;
            let table = match at {
                TableAt::Absent => None,
                TableAt::At { host, len } => Some(self.read_table(image, index, host, len)?),
            };
            self.table = Some((index, table));
        }
        Ok(self.table.as_ref().and_then(|(_, table)| table.as_deref()))
    }

    /// Entries outside of the window stay zero, and are not asked for.
    fn read_table(
        &self,
        image: &Image,
        index: u64,
        host: HostOffset,
        len: usize,
    ) -> Result<Vec<u8>> {
        let mut table = vec![0; len];
        if let Some(checked) = &self.checked {
            checked.read(self.layer, host.get(), &mut table)?;
            return Ok(table);
        }
        let start = index.saturating_mul(image.bytes_per_table());
        let covered = GuestRange::new(start, image.bytes_per_table()).unwrap_or(self.window);
        let part = covered.intersect(self.window);
        let cluster = image.cluster().bytes();
        let entry = if image.header().extended_l2() { 16 } else { 8 };
        let first = part.start().get().saturating_sub(start) / cluster * entry;
        let last = part.end().get().saturating_sub(start).div_ceil(cluster) * entry;
        let (Ok(from), Ok(to)) = (usize::try_from(first), usize::try_from(last)) else {
            return Err(self.layer.damaged("an L2 table is longer than memory"));
        };
        if let Some(slice) = table.get_mut(from..to) {
            self.layer
                .file()
                .read_at_blocking(host.get().saturating_add(first), slice)
                .map_err(|e| Error::io(self.layer.name(), e))?;
        }
        Ok(table)
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
