//! An open image: where each guest byte lies.
//!
//! An [`Image`] is its header and L1 table, immutable. L2 tables are brought by the caller, who
//! may keep them as it likes; [`Image::map_table`] turns one into merged runs. Invariant: a mapped
//! host range begins inside the file, on a cluster (or subcluster) boundary.

use super::bytes::u64s;
use super::table::{L1Entry, L2Entry, L2Kind, Subcluster, TableShape};
use super::{Header, Mapping, Target, layout};
use crate::range::{ClusterSize, GuestRange, HostOffset};
use crate::{Error, ErrorKind, Result};

/// An open image.
#[derive(Debug, Clone)]
pub struct Image {
    header: Header,
    l1: Vec<L1Entry>,
    file_len: u64,
}

/// Where an L2 table lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableAt {
    /// There is none: all that it would cover is unallocated.
    Absent,
    /// Read these bytes.
    At {
        /// Where the table begins.
        host: HostOffset,
        /// Its length, one cluster.
        len: usize,
    },
}

impl Image {
    pub(super) fn new(header: Header, l1: &[u8], file_len: u64) -> Self {
        Self {
            l1: u64s(l1).map(L1Entry::from_raw).collect(),
            header,
            file_len,
        }
    }

    /// The parsed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header alone.
    pub fn into_header(self) -> Header {
        self.header
    }

    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        self.header.virtual_size
    }

    /// The cluster size.
    pub fn cluster(&self) -> ClusterSize {
        self.header.cluster
    }

    /// The file's length when it was opened.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// How many L2 tables cover the disk, absent ones included.
    pub fn tables(&self) -> u64 {
        self.header.tables_needed()
    }

    /// Guest bytes that one L2 table covers.
    pub fn bytes_per_table(&self) -> u64 {
        self.header.shape().bytes_per_table()
    }

    /// Where L2 table `index` lies.
    pub fn table(&self, index: u64) -> Result<TableAt> {
        let entry = usize::try_from(index).ok().and_then(|i| self.l1.get(i));
        let Some(entry) = entry.filter(|_| index < self.tables()) else {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("the disk has no table {index}"),
            ));
        };
        let Some(host) = entry.table() else {
            return Ok(TableAt::Absent);
        };
        self.aligned(host, || format!("L2 table {index}"))?;
        let len = self.cluster().bytes();
        if host
            .get()
            .checked_add(len)
            .is_none_or(|end| end > self.file_len)
        {
            return Err(Error::at(
                ErrorKind::Truncated,
                host,
                format!("L2 table {index} goes beyond the file's end"),
            ));
        }
        Ok(TableAt::At {
            host,
            len: self.cluster().bytes_usize(),
        })
    }

    /// The mappings of the part of `range` that table `index` covers, clipped to the disk, in
    /// order, without gaps, adjacent runs merged. `table` is what [`Image::table`] pointed at,
    /// `None` where it was absent.
    pub fn map_table(
        &self,
        index: u64,
        table: Option<&[u8]>,
        range: GuestRange,
    ) -> Result<Vec<Mapping>> {
        let at = self.table(index)?;
        let range = self.covered(index, range);
        let mut runs = Runs::default();
        match (at, table) {
            _ if range.is_empty() => {}
            (TableAt::Absent, _) => runs.push(range, Target::Unallocated),
            (TableAt::At { len, .. }, Some(table)) if table.len() >= len => {
                self.map_entries(table, range, &mut runs)?;
            }
            (TableAt::At { host, .. }, _) => {
                return Err(Error::at(
                    ErrorKind::WrongState,
                    host,
                    format!("L2 table {index} was not given whole"),
                ));
            }
        }
        Ok(runs.0)
    }

    /// The part of a range that lies on the disk and in one table.
    fn covered(&self, index: u64, range: GuestRange) -> GuestRange {
        let bytes = self.bytes_per_table();
        // Both fit: the table exists, so it begins inside of the disk.
        let start = index.saturating_mul(bytes);
        let len = bytes.min(self.virtual_size().saturating_sub(start));
        match GuestRange::new(start, len) {
            Some(table) => table.intersect(range),
            None => range,
        }
    }

    fn map_entries(&self, table: &[u8], range: GuestRange, runs: &mut Runs) -> Result<()> {
        let shape = self.header.shape();
        let cluster = shape.cluster;
        let mut at = range.start().get();
        let end = range.end().get();
        while at < end {
            let start = at & !(cluster.bytes() - 1);
            let within = at - start;
            let len = (cluster.bytes() - within).min(end - at);
            let slot = (start / cluster.bytes()) % shape.entries();
            let entry = shape.entry(table, slot).unwrap_or_default();
            let piece = Piece { start, within, len };
            self.map_entry(shape, entry, piece, runs)?;
            at += len;
        }
        Ok(())
    }

    fn map_entry(
        &self,
        shape: TableShape,
        entry: L2Entry,
        piece: Piece,
        runs: &mut Runs,
    ) -> Result<()> {
        let Some(range) = piece.range() else {
            return Ok(());
        };
        let name = || format!("the entry of guest byte {}", piece.start);
        match entry.kind(shape) {
            L2Kind::Compressed(host, len) => {
                let left = self.file_len.saturating_sub(host.get());
                if left == 0 {
                    return Err(self.beyond(host, &name()));
                }
                let len = usize::try_from(left).map_or(len, |left| len.min(left));
                runs.0.push(Mapping {
                    range,
                    target: Target::Compressed { host, len },
                });
            }
            L2Kind::Zero(_) if self.header.version < 3 => {
                return Err(Error::new(
                    ErrorKind::Malformed,
                    format!(
                        "{} is a zero cluster, which version 2 does not have",
                        name()
                    ),
                ));
            }
            L2Kind::Zero(host) => {
                if let Some(host) = host {
                    self.aligned(host, name)?;
                }
                let host = host.and_then(|h| h.checked_add(piece.within));
                runs.push(range, Target::Zero { host });
            }
            L2Kind::Unallocated if entry.bitmap() == 0 => runs.push(range, Target::Unallocated),
            L2Kind::Unallocated => self.map_subclusters(shape, entry, None, piece, runs)?,
            L2Kind::Data(host) => {
                self.aligned(host, name)?;
                if shape.extended && entry.bitmap() != 0xffff_ffff {
                    self.map_subclusters(shape, entry, Some(host), piece, runs)?;
                } else {
                    runs.push(range, self.data(host, piece.within, &name)?);
                }
            }
        }
        Ok(())
    }

    fn map_subclusters(
        &self,
        shape: TableShape,
        entry: L2Entry,
        host: Option<HostOffset>,
        piece: Piece,
        runs: &mut Runs,
    ) -> Result<()> {
        let name = || format!("the entry of guest byte {}", piece.start);
        let size = shape.subcluster_bytes();
        let end = piece.within + piece.len;
        let mut within = piece.within;
        for index in 0..layout::SUBCLUSTERS {
            let stop = (u64::from(index) + 1) * size;
            if stop <= within || within >= end {
                continue;
            }
            let len = stop.min(end) - within;
            let target = match (entry.subcluster(index), host) {
                (None, _) | (Some(Subcluster::Data), None) => {
                    return Err(Error::new(
                        ErrorKind::Malformed,
                        format!("the subclusters of {} contradict themselves", name()),
                    ));
                }
                (Some(Subcluster::Unallocated), _) => Target::Unallocated,
                (Some(Subcluster::Zero), host) => Target::Zero {
                    host: host.and_then(|h| h.checked_add(within)),
                },
                (Some(Subcluster::Data), Some(host)) => self.data(host, within, &name)?,
            };
            let part = Piece {
                within,
                len,
                ..piece
            };
            if let Some(range) = part.range() {
                runs.push(range, target);
            }
            within += len;
        }
        Ok(())
    }

    /// Data at `within` of a cluster, which begins inside the file.
    fn data(&self, host: HostOffset, within: u64, name: &dyn Fn() -> String) -> Result<Target> {
        if host.get() >= self.file_len {
            return Err(self.beyond(host, &name()));
        }
        // Below 2^56 plus a cluster.
        let host = host.checked_add(within).unwrap_or(host);
        Ok(Target::Data { host })
    }

    fn aligned(&self, host: HostOffset, name: impl Fn() -> String) -> Result<()> {
        if host.get().is_multiple_of(self.cluster().bytes()) {
            return Ok(());
        }
        Err(Error::at(
            ErrorKind::Malformed,
            host,
            format!("{} does not lie on a cluster boundary", name()),
        ))
    }

    fn beyond(&self, host: HostOffset, name: &str) -> Error {
        Error::at(
            ErrorKind::Truncated,
            host,
            format!("{name} lies beyond the file's end at {}", self.file_len),
        )
    }
}

/// A part of one guest cluster.
#[derive(Clone, Copy)]
struct Piece {
    /// The cluster's first guest byte.
    start: u64,
    /// Where the part begins in it.
    within: u64,
    len: u64,
}

impl Piece {
    /// Always there: a piece lies on the disk, whose end fits.
    fn range(self) -> Option<GuestRange> {
        GuestRange::new(self.start.checked_add(self.within)?, self.len)
    }
}

/// Mappings in the making; neighbours that go on in the same way become one.
#[derive(Default)]
struct Runs(Vec<Mapping>);

impl Runs {
    fn push(&mut self, range: GuestRange, target: Target) {
        if let Some(last) = self.0.last_mut() {
            let goes_on = match (last.target, target) {
                (Target::Unallocated, Target::Unallocated)
                | (Target::Zero { host: None }, Target::Zero { host: None }) => true,
                (Target::Zero { host: Some(a) }, Target::Zero { host: Some(b) })
                | (Target::Data { host: a }, Target::Data { host: b }) => {
                    a.checked_add(last.range.len()) == Some(b)
                }
                _ => false,
            };
            let longer = last
                .range
                .len()
                .checked_add(range.len())
                .and_then(|len| GuestRange::new(last.range.start().get(), len));
            if let (true, Some(longer)) = (goes_on, longer) {
                last.range = longer;
                return;
            }
        }
        self.0.push(Mapping { range, target });
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]
mod tests;
