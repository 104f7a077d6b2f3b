//! L1 and L2 entries: what each bit means, both ways.
//!
//! ```text
//! L1        | 63 copied | 62..56 reserved | 55..9 L2 table | 8..0 reserved |
//! L2 plain  | 63 copied | 62 = 0 | 61..56 reserved | 55..9 cluster | 8..1 reserved | 0 zero |
//! L2 packed | 63 = 0 | 62 = 1 | 61..x sectors - 1 | x-1..0 byte offset |  x = 70 - cluster_bits
//! extended  | the above (bit 0 reserved) | 63..32 subcluster reads zero | 31..0 is allocated |
//! ```
//! Bit 62 is looked at first: in a packed entry bit 0 belongs to the offset.

use super::bytes::u64_at;
use super::layout::{
    COMPRESSED, COPIED, EXTENDED_L2_MIN_BITS, L1_RESERVED, L2_RESERVED, OFFSET_MASK, ZERO,
};
use crate::range::{ClusterSize, HostOffset};

/// An entry of the L1 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L1Entry(u64);

impl L1Entry {
    /// An entry without a table.
    pub const ABSENT: Self = Self(0);

    /// An entry as it is on disk.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// An entry for a table that nothing else refers to (refcount one, hence copied).
    pub const fn owned(table: HostOffset) -> Self {
        Self(table.get() & OFFSET_MASK | COPIED)
    }

    /// The entry as it goes to disk.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Where the L2 table lies, if there is one.
    pub const fn table(self) -> Option<HostOffset> {
        match self.0 & OFFSET_MASK {
            0 => None,
            at => Some(HostOffset::new(at)),
        }
    }

    /// Whether the table's refcount is said to be one.
    pub const fn copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// Whether a bit is set that must not be.
    pub const fn has_reserved_bits(self) -> bool {
        self.0 & L1_RESERVED != 0
    }
}

/// An entry of an L2 table; `bitmap` is zero where the table is not extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Entry {
    raw: u64,
    bitmap: u64,
}

/// What an L2 entry says about its whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L2Kind {
    /// Nothing here: ask the parent.
    Unallocated,
    /// Reads as zero; a cluster may be kept for later.
    Zero(Option<HostOffset>),
    /// A cluster of data. With extended L2 the bitmap says which parts of it.
    Data(HostOffset),
    /// Compressed bytes: their start and an upper bound of their number.
    Compressed(HostOffset, usize),
}

/// What an extended L2 entry says about one subcluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subcluster {
    /// Nothing here: ask the parent.
    Unallocated,
    /// Reads as zero.
    Zero,
    /// Data, at its place in the cluster.
    Data,
}

impl L2Entry {
    /// Nothing here.
    pub const UNALLOCATED: Self = Self { raw: 0, bitmap: 0 };
    /// Reads as zero, without a cluster (version 3, not extended).
    pub const ZERO: Self = Self {
        raw: ZERO,
        bitmap: 0,
    };

    /// An entry as it is on disk.
    pub const fn from_raw(raw: u64, bitmap: u64) -> Self {
        Self { raw, bitmap }
    }

    /// An entry for a data cluster that nothing else refers to (refcount one, hence copied).
    pub const fn owned(cluster: HostOffset) -> Self {
        Self {
            raw: cluster.get() & OFFSET_MASK | COPIED,
            bitmap: 0,
        }
    }

    /// The first word as it goes to disk.
    pub const fn raw(self) -> u64 {
        self.raw
    }

    /// The subcluster bitmap, the second word of an extended entry.
    pub const fn bitmap(self) -> u64 {
        self.bitmap
    }

    /// Whether the cluster's refcount is said to be one.
    pub const fn copied(self) -> bool {
        self.raw & COPIED != 0
    }

    /// What the entry says about its cluster.
    pub fn kind(self, shape: TableShape) -> L2Kind {
        if self.raw & COMPRESSED != 0 {
            let (at, len) = self.packed(shape.cluster);
            return L2Kind::Compressed(at, len);
        }
        let host = match self.raw & OFFSET_MASK {
            0 => None,
            at => Some(HostOffset::new(at)),
        };
        match host {
            host if !shape.extended && self.raw & ZERO != 0 => L2Kind::Zero(host),
            Some(host) => L2Kind::Data(host),
            None => L2Kind::Unallocated,
        }
    }

    /// Start and upper bound of compressed bytes: whole 512-byte sectors from the start's sector.
    fn packed(self, cluster: ClusterSize) -> (HostOffset, usize) {
        let offset_bits = 70 - cluster.bits();
        let at = self.raw & ((1 << offset_bits) - 1);
        let sectors = ((self.raw & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        let len = sectors * 512 - at % 512;
        // At most two clusters: the field has cluster_bits - 8 bits.
        (HostOffset::new(at), usize::try_from(len).unwrap_or(0))
    }

    /// Subcluster `index` (0 to 31) of an extended data or unallocated entry; `None` where the
    /// bitmap contradicts itself.
    pub fn subcluster(self, index: u32) -> Option<Subcluster> {
        if !self.bitmap_is_consistent() {
            return None;
        }
        Some(if self.bitmap >> (32 + index % 32) & 1 != 0 {
            Subcluster::Zero
        } else if self.bitmap >> (index % 32) & 1 != 0 {
            Subcluster::Data
        } else {
            Subcluster::Unallocated
        })
    }

    /// No subcluster both zero and allocated, none allocated without a cluster.
    pub const fn bitmap_is_consistent(self) -> bool {
        let allocated = self.bitmap & 0xffff_ffff;
        let zero = self.bitmap >> 32;
        allocated & zero == 0 && (allocated == 0 || self.raw & OFFSET_MASK != 0)
    }

    /// Whether a bit is set that must not be.
    pub const fn has_reserved_bits(self, shape: TableShape) -> bool {
        if self.raw & COMPRESSED != 0 {
            return false;
        }
        self.raw & L2_RESERVED != 0 || (shape.extended && self.raw & ZERO != 0)
    }
}

/// How an image's L2 tables look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableShape {
    /// The cluster size; a table fills one cluster.
    pub cluster: ClusterSize,
    /// Whether entries are 16 bytes wide with subclusters.
    pub extended: bool,
}

impl TableShape {
    /// Tables of plain 8-byte entries.
    pub const fn plain(cluster: ClusterSize) -> Self {
        Self {
            cluster,
            extended: false,
        }
    }

    /// Bytes of one entry.
    pub const fn entry_bytes(self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    /// Entries of one table.
    pub const fn entries(self) -> u64 {
        self.cluster.bytes() / self.entry_bytes() as u64
    }

    /// Guest bytes that one table covers.
    pub const fn bytes_per_table(self) -> u64 {
        self.entries() * self.cluster.bytes()
    }

    /// Bytes of a subcluster.
    pub const fn subcluster_bytes(self) -> u64 {
        self.cluster.bytes() / 32
    }

    /// Entry `index` of a table; `None` behind its end.
    pub fn entry(self, table: &[u8], index: u64) -> Option<L2Entry> {
        let at = usize::try_from(index)
            .ok()?
            .checked_mul(self.entry_bytes())?;
        let raw = u64_at(table, at)?;
        let bitmap = if self.extended {
            u64_at(table, at.checked_add(8)?)?
        } else {
            0
        };
        Some(L2Entry { raw, bitmap })
    }

    /// Whether this cluster size may carry extended entries.
    pub const fn is_legal(self) -> bool {
        !self.extended || self.cluster.bits() >= EXTENDED_L2_MIN_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: TableShape = TableShape::plain(ClusterSize::DEFAULT);
    const WIDE: TableShape = TableShape {
        cluster: ClusterSize::DEFAULT,
        extended: true,
    };

    #[test]
    fn entries_say_what_they_were_given() {
        let host = HostOffset::new(0x50000);
        assert_eq!(L1Entry::owned(host).table(), Some(host));
        assert_eq!(L1Entry::owned(host).raw(), 0x8000_0000_0005_0000);
        assert!(L1Entry::owned(host).copied() && !L1Entry::owned(host).has_reserved_bits());
        assert_eq!(L1Entry::ABSENT.table(), None);
        assert_eq!(L2Entry::owned(host).kind(PLAIN), L2Kind::Data(host));
        assert_eq!(L2Entry::ZERO.kind(PLAIN), L2Kind::Zero(None));
        assert_eq!(L2Entry::UNALLOCATED.kind(PLAIN), L2Kind::Unallocated);
        let kept = L2Entry::from_raw(host.get() | ZERO | COPIED, 0);
        assert_eq!(kept.kind(PLAIN), L2Kind::Zero(Some(host)));
        assert!(L2Entry::from_raw(2, 0).has_reserved_bits(PLAIN));
        assert!(L2Entry::ZERO.has_reserved_bits(WIDE));
    }

    #[test]
    fn compressed_is_seen_before_the_zero_bit() {
        // 64 KiB clusters: 54 offset bits; an odd offset sets bit 0.
        let entry = L2Entry::from_raw(COMPRESSED | 2 << 54 | 0x1_0003, 0);
        assert_eq!(
            entry.kind(PLAIN),
            L2Kind::Compressed(HostOffset::new(0x1_0003), 3 * 512 - 3)
        );
        assert!(!entry.has_reserved_bits(PLAIN));
        for bits in 9..=21 {
            let shape = TableShape::plain(ClusterSize::from_bits(bits).unwrap());
            let L2Kind::Compressed(_, len) = L2Entry::from_raw(u64::MAX, 0).kind(shape) else {
                panic!("not compressed");
            };
            assert!(len <= 2 << bits && len > 0);
        }
    }

    #[test]
    fn subclusters_follow_both_bitmaps() {
        let entry = L2Entry::from_raw(0x50000 | COPIED, 1 << 33 | 1);
        assert_eq!(entry.kind(WIDE), L2Kind::Data(HostOffset::new(0x50000)));
        assert_eq!(entry.subcluster(0), Some(Subcluster::Data));
        assert_eq!(entry.subcluster(1), Some(Subcluster::Zero));
        assert_eq!(entry.subcluster(2), Some(Subcluster::Unallocated));
        assert_eq!(L2Entry::from_raw(0x50000, 1 << 32 | 1).subcluster(5), None);
        assert_eq!(L2Entry::from_raw(0, 1).subcluster(5), None);
        assert_eq!(
            L2Entry::from_raw(0, 1 << 32).subcluster(0),
            Some(Subcluster::Zero)
        );
    }

    #[test]
    fn shapes_have_the_sizes_of_the_specification() {
        assert_eq!(PLAIN.bytes_per_table(), 512 << 20);
        assert_eq!(WIDE.bytes_per_table(), 256 << 20);
        assert_eq!(WIDE.subcluster_bytes(), 2048);
        let table = [0_u8; 20];
        assert!(PLAIN.entry(&table, 1).is_some() && PLAIN.entry(&table, 2).is_none());
        assert!(WIDE.entry(&table, 0).is_some() && WIDE.entry(&table, 1).is_none());
        assert!(PLAIN.entry(&table, u64::MAX).is_none());
    }
}
