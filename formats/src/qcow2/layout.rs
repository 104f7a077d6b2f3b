//! The numbers of the QCOW2 specification: field offsets, flag bits, limits.
//!
//! ```text
//! byte  0 magic "QFI\xfb"   4 version          8 backing name offset   16 backing name length
//!      20 cluster_bits     24 virtual size    32 encryption method     36 L1 entries
//!      40 L1 offset        48 refcount table  56 its clusters          60 snapshots
//!      64 snapshot table   -- version 3 goes on --
//!      72 incompatible     80 compatible      88 autoclear             96 refcount order
//!     100 header length   104 compression    105 padding to 112        ... extensions
//! ```
//! All numbers on disk are big endian.

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// Header bytes of version 2.
pub const V2_HEADER: usize = 72;
/// Header bytes of version 3 without the compression field; what we emit.
pub const V3_HEADER: usize = 104;
/// Header bytes with the compression field and its padding.
pub const V3_HEADER_COMPRESSION: usize = 112;

/// Incompatible bit 0: refcounts may be wrong.
pub const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Incompatible bit 1: metadata is known to be damaged.
pub const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Incompatible bit 2: guest data lies in another file.
pub const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Incompatible bit 3: the compression field is not zero.
pub const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
/// Incompatible bit 4: L2 entries are 128 bits wide, with subclusters.
pub const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// All incompatible bits that a reader of ours knows, refused ones included.
pub const INCOMPATIBLE_KNOWN: u64 = 0x1f;
/// Compatible bit 0: refcounts are written late.
pub const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear bit 0: the bitmaps extension is consistent.
pub const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// Autoclear bit 1: the external data file reads as a raw image.
pub const AUTOCLEAR_RAW_EXTERNAL: u64 = 1 << 1;

/// Extension: end of the area.
pub const EXT_END: u32 = 0;
/// Extension: name of the backing file's format.
pub const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Extension: names of feature bits.
pub const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
/// Extension: persistent bitmaps.
pub const EXT_BITMAPS: u32 = 0x2385_2875;
/// Extension: LUKS header.
pub const EXT_ENCRYPTION: u32 = 0x0537_be77;
/// Extension: name of the external data file.
pub const EXT_DATA_FILE: u32 = 0x4441_5441;

/// Bit 63 of L1 and data L2 entries: the refcount is exactly one.
pub const COPIED: u64 = 1 << 63;
/// Bit 62 of an L2 entry: compressed. Tested before any other bit.
pub const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a standard L2 entry: reads as zero (version 3, no extended L2).
pub const ZERO: u64 = 1;
/// The host offset in L1, standard L2, refcount table and bitmap table entries.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Reserved bits of an L1 entry.
pub const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Reserved bits of a standard L2 entry.
pub const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Reserved bits of a refcount table entry.
pub const REFCOUNT_TABLE_RESERVED: u64 = 0x1ff;
/// Host offsets are smaller than this.
pub const MAX_HOST: u64 = 1 << 56;

/// Subclusters of one cluster with extended L2.
pub const SUBCLUSTERS: u32 = 32;
/// Extended L2 needs clusters of at least this exponent.
pub const EXTENDED_L2_MIN_BITS: u32 = 14;
/// The longest backing file name.
pub const MAX_BACKING_NAME: usize = 1023;
/// The longest backing format name that QEMU takes.
pub const MAX_BACKING_FORMAT: usize = 15;
/// The largest L1 table.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The most internal snapshots.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// The largest snapshot table.
pub const MAX_SNAPSHOT_TABLE_BYTES: u64 = 64 << 20;
/// The most bytes that an entry of the snapshot table has beyond its fixed part and its names.
pub const MAX_SNAPSHOT_EXTRA: u64 = 1024;
/// The most persistent bitmaps.
pub const MAX_BITMAPS: u32 = 65535;
/// The largest bitmap directory.
pub const MAX_BITMAP_DIRECTORY_BYTES: u64 = 64 << 20;
/// The most entries of one bitmap's table.
pub const MAX_BITMAP_ENTRIES: u64 = 0x0800_0000;
/// The largest disk that is opened or made, in bytes.
pub const MAX_VIRTUAL_SIZE: u64 = 1 << 60;
/// What QEMU counts disks in, in bytes: a rest of a sector does not exist for it.
pub const SECTOR: u64 = 512;

/// Class, bit and name of every feature that we know, for the feature-name table.
pub const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];
