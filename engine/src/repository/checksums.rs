//! The checksum file of an image: CRC-32 of every *host* cluster in file order, header and
//! metadata included, in blocks of 4 KiB that each carry their own checksum.
//!
//! ```text
//! block 0   0  8   "SENDCRC1"
//!           8  4   cluster bits
//!          12  4   0
//!          16  8   length of the image in bytes
//!          24  8   number of checksums = clusters of the image, the last one perhaps in part
//!        4092  4   CRC-32 of the 4092 bytes before
//! block n   0  4   checksum of cluster (n - 1) * 1023, and so on; unused ones are 0
//!        4092  4   CRC-32 of n (8 bytes) and the 4092 bytes before
//! ```
//! All numbers are little-endian. A lookup reads one block and trusts nothing else; memory is
//! bounded by a block for writing and by the asked range for reading.

use std::fmt::Debug;
use std::sync::Arc;

use sendense_formats::ClusterSize;

use super::sidecar::ChecksumsRef;
use crate::storage::File;
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"SENDCRC1";
const BLOCK: usize = 4096;
const BODY: usize = BLOCK - 4;
const PER_BLOCK: u64 = (BODY / 4) as u64;
/// Blocks that are written or read at once.
const BATCH: usize = 256;

/// CRC-32 of each host cluster, from whoever wrote the image.
pub trait SumSource: Send + Sync + Debug {
    /// How many there are.
    fn count(&self) -> u64;

    /// All of them, in file order.
    fn sums(&self) -> Box<dyn Iterator<Item = u32> + '_>;
}

impl SumSource for Vec<u32> {
    fn count(&self) -> u64 {
        self.len() as u64
    }

    fn sums(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        Box::new(self.iter().copied())
    }
}

/// Length of the checksum file of an image with this many clusters.
fn file_len(count: u64) -> u64 {
    (1 + count.div_ceil(PER_BLOCK)).saturating_mul(BLOCK as u64)
}

fn header_block(cluster: ClusterSize, image_len: u64, count: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    block.extend_from_slice(MAGIC);
    block.extend_from_slice(&cluster.bits().to_le_bytes());
    block.extend_from_slice(&[0; 4]);
    block.extend_from_slice(&image_len.to_le_bytes());
    block.extend_from_slice(&count.to_le_bytes());
    block.resize(BODY, 0);
    let crc = crc32fast::hash(&block);
    block.extend_from_slice(&crc.to_le_bytes());
    block
}

fn block_crc(number: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Writes the checksum file of an image into an empty file, and syncs it.
pub fn write_checksums(
    to: &dyn File,
    name: &str,
    cluster: ClusterSize,
    image_len: u64,
    sums: &dyn SumSource,
) -> Result<ChecksumsRef> {
    let count = cluster.count(image_len);
    if sums.count() != count {
        return Err(Error::new(
            ErrorKind::WrongState,
            format!(
                "{name}: {} checksums for an image of {count} clusters",
                sums.count()
            ),
        ));
    }
    let io = |e| Error::io(format!("writing {name}"), e);
    let mut whole = crc32fast::Hasher::new();
    let mut at = 0u64;
    let mut batch = header_block(cluster, image_len, count);
    let mut sums = sums.sums();
    for number in 1..=count.div_ceil(PER_BLOCK) {
        let start = batch.len();
        for sum in sums.by_ref().take(BODY / 4) {
            batch.extend_from_slice(&sum.to_le_bytes());
        }
        batch.resize(start + BODY, 0);
        let crc = block_crc(number, batch.get(start..).unwrap_or_default());
        batch.extend_from_slice(&crc.to_le_bytes());
        if batch.len() >= BATCH * BLOCK {
            to.write_at_blocking(at, &batch).map_err(io)?;
            whole.update(&batch);
            at += batch.len() as u64;
            batch.clear();
        }
    }
    to.write_at_blocking(at, &batch).map_err(io)?;
    whole.update(&batch);
    to.sync_blocking().map_err(io)?;
    Ok(ChecksumsRef {
        file: name.to_owned(),
        len: at + batch.len() as u64,
        crc32: whole.finalize(),
    })
}

/// An opened checksum file: looks up and compares.
#[derive(Debug, Clone)]
pub struct ChecksumFile {
    file: Arc<dyn File>,
    name: String,
    cluster: ClusterSize,
    image_len: u64,
    count: u64,
}

impl ChecksumFile {
    /// Opens the checksum file of an image of this cluster size and length; a file for another one
    /// is refused.
    pub fn open(
        file: Arc<dyn File>,
        name: &str,
        cluster: ClusterSize,
        image_len: u64,
    ) -> Result<Self> {
        let count = cluster.count(image_len);
        let io = |e| Error::io(format!("reading {name}"), e);
        let len = file.len().map_err(io)?;
        if len != file_len(count) {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("{name} has {len} bytes, not {}", file_len(count)),
            ));
        }
        let mut header = vec![0; BLOCK];
        file.read_at_blocking(0, &mut header).map_err(io)?;
        if header != header_block(cluster, image_len, count) {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("{name} is damaged, or does not belong to this image"),
            ));
        }
        Ok(Self {
            file,
            name: name.to_owned(),
            cluster,
            image_len,
            count,
        })
    }

    /// How many clusters the image has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The cluster size.
    pub fn cluster(&self) -> ClusterSize {
        self.cluster
    }

    /// The checksums of `count` clusters from `first` on, fewer at the image's end.
    pub fn sums(&self, first: u64, count: usize) -> Result<Vec<u32>> {
        let left = self.count.saturating_sub(first);
        let count = usize::try_from(left).map_or(count, |left| left.min(count));
        let mut out = Vec::with_capacity(count);
        let mut number = 1 + first / PER_BLOCK;
        let mut skip = usize::try_from(first % PER_BLOCK).unwrap_or(0);
        while out.len() < count {
            let blocks = (skip + count - out.len()).div_ceil(BODY / 4).min(BATCH);
            let mut bytes = vec![0; blocks * BLOCK];
            self.file
                .read_at_blocking(number * BLOCK as u64, &mut bytes)
                .map_err(|e| Error::io(format!("reading {}", self.name), e))?;
            for block in bytes.chunks_exact(BLOCK) {
                let body = self.body_of(number, block)?;
                let wanted = count - out.len();
                let (words, _) = body.as_chunks::<4>();
                let words = words.iter().skip(skip).take(wanted);
                out.extend(words.map(|w| u32::from_le_bytes(*w)));
                skip = 0;
                number += 1;
            }
        }
        Ok(out)
    }

    /// Compares bytes of the image with their checksums: `bytes` are those from cluster `first` on,
    /// whole clusters but perhaps for the image's last one. Returns the clusters that differ.
    pub fn differing(&self, first: u64, bytes: &[u8]) -> Result<Vec<u64>> {
        let chunks = bytes.chunks(self.cluster.bytes_usize());
        let sums = self.sums(first, chunks.len())?;
        if sums.len() != chunks.len() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} knows nothing past cluster {}", self.name, self.count),
            ));
        }
        let numbered = (first..).zip(chunks.zip(sums));
        Ok(numbered
            .filter(|(_, (bytes, sum))| crc32fast::hash(bytes) != *sum)
            .map(|(cluster, _)| cluster)
            .collect())
    }

    /// Reads the whole file and compares it with what the sidecar says about it.
    pub fn check_whole(&self, expected: &ChecksumsRef) -> Result<()> {
        let mut crc = crc32fast::Hasher::new();
        let mut buf = vec![0; BATCH * BLOCK];
        let mut at = 0;
        while at < file_len(self.count) {
            let left = file_len(self.count) - at;
            let n = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
            let part = buf.get_mut(..n).unwrap_or_default();
            self.file
                .read_at_blocking(at, part)
                .map_err(|e| Error::io(format!("reading {}", self.name), e))?;
            crc.update(part);
            at += n as u64;
        }
        if crc.finalize() != expected.crc32 || file_len(self.count) != expected.len {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("{} is not the file that its sidecar describes", self.name),
            ));
        }
        Ok(())
    }

    /// The length of the image that these checksums are of.
    pub fn image_len(&self) -> u64 {
        self.image_len
    }

    fn body_of<'a>(&self, number: u64, block: &'a [u8]) -> Result<&'a [u8]> {
        let checked = block
            .split_last_chunk::<4>()
            .filter(|(body, crc)| block_crc(number, body) == u32::from_le_bytes(**crc));
        checked.map(|(body, _)| body).ok_or_else(|| {
            Error::new(
                ErrorKind::Damaged,
                format!("block {number} of {} is damaged", self.name),
            )
        })
    }
}

#[cfg(test)]
mod tests;
