//! The header cluster: parsing versions 2 and 3, writing version 3.
//!
//! Invariant: a parsed [`Header`] is within the policy's limits, refuses what we cannot read
//! right, and the L1 and refcount tables lie on cluster boundaries inside the file. The sizes in
//! it are still only claims about *content*; nothing is allocated from them beyond the file.

mod encode;
mod extension;
mod limits;

pub use extension::{BitmapDirectory, Extension};

use super::OpenPolicy;
use super::bytes::{u32_at, u64_at};
use super::layout::{
    self, EXTENDED_L2_MIN_BITS, INCOMPATIBLE_COMPRESSION, INCOMPATIBLE_CORRUPT,
    INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_DIRTY, INCOMPATIBLE_EXTENDED_L2, INCOMPATIBLE_KNOWN,
    V2_HEADER, V3_HEADER, V3_HEADER_COMPRESSION,
};
use super::table::TableShape;
use crate::range::{ClusterSize, HostOffset};
use crate::{Error, ErrorKind, Result};

/// A parsed or to be written header, its extensions and the backing file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The cluster size.
    pub cluster: ClusterSize,
    /// Bytes of the virtual disk.
    pub virtual_size: u64,
    /// Entries of the active L1 table.
    pub l1_entries: u32,
    /// Where the active L1 table lies.
    pub l1_at: HostOffset,
    /// Where the refcount table lies.
    pub refcount_table_at: HostOffset,
    /// Its length in clusters.
    pub refcount_table_clusters: u32,
    /// A refcount has `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// Features that a reader must know.
    pub incompatible: u64,
    /// Features that a reader may ignore.
    pub compatible: u64,
    /// Features that a writer must clear when it does not know them.
    pub autoclear: u64,
    /// The backing file that the image names. Untrusted text: see [`OpenPolicy::backing_of`].
    pub backing: Option<Backing>,
    /// How compressed clusters are packed.
    pub compression: Compression,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Where their table lies.
    pub snapshots_at: HostOffset,
    /// Header bytes behind the ones that we know (`header_length` > 112), kept as they are.
    pub extra: Vec<u8>,
    /// All extensions but the backing format and the feature names, kept as they are.
    pub extensions: Vec<Extension>,
}

/// The backing file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Its format, where the image says one.
    pub format: Option<String>,
}

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

impl Header {
    /// A version 3 header without tables: no feature bits, refcounts of 16 bits.
    pub fn new(cluster: ClusterSize, virtual_size: u64) -> Self {
        Self {
            version: 3,
            cluster,
            virtual_size,
            l1_entries: 0,
            l1_at: HostOffset::new(0),
            refcount_table_at: HostOffset::new(0),
            refcount_table_clusters: 0,
            refcount_order: 4,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            backing: None,
            compression: Compression::Zlib,
            snapshots: 0,
            snapshots_at: HostOffset::new(0),
            extra: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// How many bytes from the file's start [`Header::parse`] wants to see: one cluster. Needs
    /// the first 24 bytes.
    pub fn wanted(start: &[u8]) -> Result<usize> {
        magic(start)?;
        let bits = u32_at(start, 20).ok_or_else(too_short)?;
        Ok(cluster_size(bits)?.bytes_usize())
    }

    /// Parses the file's first cluster, or the whole file where that is shorter, with the default
    /// limits.
    pub fn parse(first: &[u8], file_len: u64) -> Result<Self> {
        Self::parse_with(first, file_len, &OpenPolicy::default())
    }

    /// Parses the file's first cluster within the limits of a policy.
    pub fn parse_with(first: &[u8], file_len: u64, policy: &OpenPolicy) -> Result<Self> {
        magic(first)?;
        let u32_of = |at| u32_at(first, at).ok_or_else(too_short);
        let u64_of = |at| u64_at(first, at).ok_or_else(too_short);

        let version = u32_of(4)?;
        if version != 2 && version != 3 {
            return Err(at(
                ErrorKind::Unsupported,
                4,
                format!("QCOW2 version {version} is not supported, only 2 and 3"),
            ));
        }
        let cluster = cluster_size(u32_of(20)?)?;
        let mut header = Self {
            version,
            l1_entries: u32_of(36)?,
            l1_at: HostOffset::new(u64_of(40)?),
            refcount_table_at: HostOffset::new(u64_of(48)?),
            refcount_table_clusters: u32_of(56)?,
            snapshots: u32_of(60)?,
            snapshots_at: HostOffset::new(u64_of(64)?),
            ..Self::new(cluster, u64_of(24)?)
        };
        let mut length = V2_HEADER;
        if version == 3 {
            header.incompatible = u64_of(72)?;
            header.compatible = u64_of(80)?;
            header.autoclear = u64_of(88)?;
            header.refcount_order = u32_of(96)?;
            length = usize::try_from(u32_of(100)?).unwrap_or(usize::MAX);
            if length < V3_HEADER || length > cluster.bytes_usize() || !length.is_multiple_of(8) {
                return Err(at(
                    ErrorKind::Malformed,
                    100,
                    format!("a header of {length} bytes is not possible"),
                ));
            }
        }
        let fixed = first.get(..length).ok_or_else(too_short)?;
        header.features(first, fixed)?;
        header.encryption(u32_of(32)?)?;
        header.packing(fixed)?;
        header.extra = fixed.get(V3_HEADER_COMPRESSION..).unwrap_or(&[]).to_vec();
        header.read_extensions(first, length, u64_of(8)?, u32_of(16)?)?;
        header.tables(file_len, policy)?;
        Ok(header)
    }

    /// Refuses what a reader must know and we do not.
    fn features(&self, first: &[u8], fixed: &[u8]) -> Result<()> {
        let unknown = self.incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            let name = extension::feature_name(first, fixed.len(), bit)
                .map(|n| format!(" ({n:?})"))
                .unwrap_or_default();
            return Err(at(
                ErrorKind::Unsupported,
                72,
                format!("the image needs the unknown feature bit {bit}{name}"),
            ));
        }
        if self.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            return Err(at(
                ErrorKind::Unsupported,
                72,
                "the image keeps its data in an external data file, which is never followed",
            ));
        }
        if self.extended_l2() && self.cluster.bits() < EXTENDED_L2_MIN_BITS {
            return Err(at(
                ErrorKind::Malformed,
                72,
                "extended L2 entries need clusters of 16 KiB or more",
            ));
        }
        if self.refcount_order > 6 {
            return Err(at(
                ErrorKind::Malformed,
                96,
                format!(
                    "a refcount order of {} is not possible, only 0 to 6",
                    self.refcount_order
                ),
            ));
        }
        Ok(())
    }

    fn encryption(&self, method: u32) -> Result<()> {
        let name = match method {
            0 => return Ok(()),
            1 => "AES".to_owned(),
            2 => "LUKS".to_owned(),
            other => format!("method {other}"),
        };
        Err(at(
            ErrorKind::Unsupported,
            32,
            format!("the image is encrypted ({name})"),
        ))
    }

    /// The compression field and its feature bit, which must agree.
    fn packing(&mut self, fixed: &[u8]) -> Result<()> {
        let method = fixed.get(V3_HEADER).copied().unwrap_or(0);
        self.compression = match method {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => {
                return Err(at(
                    ErrorKind::Unsupported,
                    104,
                    format!("compression method {other} is not known, only zlib and zstd"),
                ));
            }
        };
        if (method != 0) != (self.incompatible & INCOMPATIBLE_COMPRESSION != 0) {
            return Err(at(
                ErrorKind::Malformed,
                104,
                "the compression method and its feature bit do not agree",
            ));
        }
        Ok(())
    }

    /// L2 tables (L1 entries) that the virtual disk needs.
    pub fn tables_needed(&self) -> u64 {
        self.virtual_size.div_ceil(self.shape().bytes_per_table())
    }

    /// How this image's L2 tables look.
    pub fn shape(&self) -> TableShape {
        TableShape {
            cluster: self.cluster,
            extended: self.extended_l2(),
        }
    }

    /// The image was not closed: its refcounts may be wrong, its data is not.
    pub fn dirty(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DIRTY != 0
    }

    /// A writer found damage and left this mark.
    pub fn corrupt(&self) -> bool {
        self.incompatible & INCOMPATIBLE_CORRUPT != 0
    }

    /// L2 entries are 16 bytes wide, with subclusters.
    pub fn extended_l2(&self) -> bool {
        self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0
    }
}

fn magic(first: &[u8]) -> Result<()> {
    match u32_at(first, 0) {
        Some(layout::MAGIC) => Ok(()),
        Some(_) => Err(at(
            ErrorKind::NotThisFormat,
            0,
            "this is not a QCOW2 image: it does not begin with its magic number",
        )),
        None => Err(at(
            ErrorKind::NotThisFormat,
            0,
            "this is not a QCOW2 image: the file is too short",
        )),
    }
}

fn cluster_size(bits: u32) -> Result<ClusterSize> {
    ClusterSize::from_bits(bits).ok_or_else(|| {
        at(
            ErrorKind::Malformed,
            20,
            format!("a cluster size of 2^{bits} bytes is not possible, only 2^9 to 2^21"),
        )
    })
}

fn too_short() -> Error {
    at(
        ErrorKind::Truncated,
        0,
        "the file ends inside of its header",
    )
}

fn at(kind: ErrorKind, field: u64, detail: impl Into<String>) -> Error {
    Error::at(kind, HostOffset::new(field), detail)
}

#[cfg(test)]
mod tests;
