//! The boot sector: where everything stands.

use super::fields::{byte, le16, le32};
use crate::guest::{Blocks, Fault, Result};

/// Bytes of a directory's slot.
pub(super) const SLOT: u64 = 32;

/// The three formats, by the bits of an entry in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the root directory stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Root {
    /// In a place of its own, in bytes.
    Fixed { at: u64, len: u64 },
    /// In a chain, as any other.
    Chain(u32),
}

/// What the boot sector says, checked against the volume. Places and lengths are bytes.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) cluster_size: u32,
    /// The table in use.
    pub(super) table: u64,
    /// Where cluster 2 begins.
    pub(super) data: u64,
    /// The first number that is no cluster.
    pub(super) end: u32,
    pub(super) root: Root,
    pub(super) serial: Option<u32>,
    /// The label as the boot sector has it.
    pub(super) label: Option<[u8; 11]>,
}

impl Boot {
    /// Reads and checks it.
    ///
    /// # Errors
    /// `Damaged` where its numbers do not fit each other and the volume.
    pub(super) fn read(volume: &dyn Blocks) -> Result<Self> {
        let raw = volume.bytes(0, 512)?;
        let wrong = |what: &str| Fault::damaged(format!("the boot sector of the FAT: {what}"));
        let sector = u64::from(le16(&raw, 11));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(wrong("a sector size that there is not"));
        }
        let per_cluster = u64::from(byte(&raw, 13));
        if !per_cluster.is_power_of_two() {
            return Err(wrong("a cluster size that there is not"));
        }
        let (reserved, tables) = (u64::from(le16(&raw, 14)), u64::from(byte(&raw, 16)));
        let slots = u64::from(le16(&raw, 17));
        let total = match le16(&raw, 19) {
            0 => u64::from(le32(&raw, 32)),
            few => u64::from(few),
        };
        // Every driver takes the place of the table's length for the sign of FAT32: many a small
        // EFI partition is FAT32 with fewer clusters than the format asks for.
        let wide = le16(&raw, 22) == 0;
        let table_len = match wide {
            true => u64::from(le32(&raw, 36)),
            false => u64::from(le16(&raw, 22)),
        };
        if reserved == 0 || tables == 0 || table_len == 0 {
            return Err(wrong("no room for a table"));
        }
        let root_at = reserved + tables * table_len;
        let root_len = match wide {
            true => 0,
            false => (slots * SLOT).div_ceil(sector),
        };
        let first = root_at + root_len;
        let size = total * sector;
        if total <= first || size > volume.size() {
            return Err(wrong("its parts do not fit the volume"));
        }
        let clusters = (total - first) / per_cluster;
        let (kind, per_cluster_bits, most) = match (wide, clusters) {
            (true, _) => (Kind::Fat32, 32, 0x0fff_fff5),
            (false, ..4085) => (Kind::Fat12, 12, 4084),
            (false, _) => (Kind::Fat16, 16, 65_524),
        };
        if clusters > most {
            return Err(wrong("more clusters than its table can number"));
        }
        // What the table has no entry for cannot be in use.
        let numbered = table_len * sector * 8 / per_cluster_bits;
        let end = numbered.min(clusters + 2);
        let end = u32::try_from(end).map_err(|_| wrong("too many clusters"))?;
        let root = match wide {
            true => Root::Chain(le32(&raw, 44)),
            false if slots == 0 => return Err(wrong("no root directory")),
            false => Root::Fixed {
                at: root_at * sector,
                len: slots * SLOT,
            },
        };
        let flags = le16(&raw, 40);
        let used = match wide && flags & 0x80 != 0 {
            true => u64::from(flags & 0xf),
            false => 0,
        };
        if used >= tables {
            return Err(wrong("the table in use is not there"));
        }
        let more = if wide { 64 } else { 36 };
        let signed = byte(&raw, more + 2) == 0x29;
        let label = raw.get(more + 7..more + 18).and_then(|l| l.try_into().ok());
        Ok(Self {
            kind,
            size,
            cluster_size: u32::try_from(per_cluster * sector).unwrap_or(u32::MAX),
            table: (reserved + used * table_len) * sector,
            data: first * sector,
            end,
            root,
            serial: signed.then(|| le32(&raw, more + 3)),
            label: label.filter(|_| signed),
        })
    }
}
