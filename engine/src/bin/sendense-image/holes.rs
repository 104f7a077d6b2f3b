//! Holes of the image file under data clusters, told as zero where QEMU tells them.
//!
//! QEMU looks into the file only where it takes the image for one whose space was laid out but not
//! written: where clearly more clusters are counted than the file system has blocks for. (An image
//! that was copied sparsely looks the same.)

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sendense_engine::Error;
use sendense_engine::chain::{Chain, Layer};
use sendense_formats::qcow2::Header;

use crate::output::Failure;

/// The bits of a refcount table entry that are an offset.
const OFFSET: u64 = !0x1ff;
/// Bytes of the refcount table that are read at once.
const PIECE: u64 = 64 << 10;

/// For each layer, whether its file is looked into.
#[derive(Debug)]
pub(crate) struct Holes(Vec<bool>);

impl Holes {
    /// Judges the layers as QEMU does.
    pub(crate) fn judge(chain: &Chain) -> Result<Self, Failure> {
        let layers = chain.layers().iter().map(sparse);
        Ok(Self(layers.collect::<Result<_, _>>()?))
    }

    /// The parts of host bytes `at .. at + len` of a layer, and whether each is a hole.
    pub(crate) fn split(
        &self,
        chain: &Chain,
        depth: usize,
        at: u64,
        len: u64,
    ) -> Result<Vec<(u64, bool)>, Failure> {
        let looked_into = self.0.get(depth).copied().unwrap_or(false);
        let Some(layer) = chain.layers().get(depth).filter(|_| looked_into) else {
            return Ok(vec![(len, false)]);
        };
        let extents = layer.file().extents(at, len);
        let mut parts: Vec<(u64, bool)> = Vec::new();
        let mut next = at;
        for extent in extents.map_err(|e| Error::io(layer.name(), e))? {
            let end = extent
                .at
                .saturating_add(extent.len)
                .min(at.saturating_add(len));
            if extent.at == next && end > next {
                parts.push((end - next, extent.hole));
                next = end;
            }
        }
        let rest = at.saturating_add(len) - next;
        if rest > 0 {
            parts.push((rest, false));
        }
        Ok(parts)
    }
}

fn sparse(layer: &Layer) -> Result<bool, Failure> {
    let (Some(image), Ok(metadata)) = (layer.image(), std::fs::metadata(Path::new(layer.name())))
    else {
        return Ok(false);
    };
    let header = image.header();
    let real = metadata.blocks().saturating_mul(512) / header.cluster.bytes();
    let threshold = (real * 10 / 9).max(real + 2);
    let counted = counted(layer, header, threshold).map_err(|e| Error::io(layer.name(), e))?;
    Ok(counted >= threshold)
}

/// Clusters of the file with a refcount, counted up to `enough`.
fn counted(layer: &Layer, header: &Header, enough: u64) -> std::io::Result<u64> {
    let cluster = header.cluster.bytes();
    let clusters = header.cluster.count(layer.file_len());
    let per_block = cluster.saturating_mul(8) >> header.refcount_order;
    let table = u64::from(header.refcount_table_clusters).saturating_mul(cluster);
    let wanted = clusters.div_ceil(per_block).saturating_mul(8).min(table);
    let mut block = vec![0; header.cluster.bytes_usize()];
    let (mut counted, mut left, mut at) = (0, clusters, 0);
    while at < wanted {
        let len = usize::try_from((wanted - at).min(PIECE)).unwrap_or(0);
        let mut piece = vec![0; len];
        let from = header.refcount_table_at.get().saturating_add(at);
        layer.file().read_at_blocking(from, &mut piece)?;
        let (entries, _) = piece.as_chunks::<8>();
        for entry in entries {
            let here = left.min(per_block);
            left -= here;
            let host = u64::from_be_bytes(*entry) & OFFSET;
            if host != 0 {
                layer.file().read_at_blocking(host, &mut block)?;
                counted += nonzero(&block, header.refcount_order, here);
            }
            if counted >= enough {
                return Ok(counted);
            }
        }
        at += len as u64;
    }
    Ok(counted)
}

/// How many of the first `count` refcounts of a block are not 0.
fn nonzero(block: &[u8], order: u32, count: u64) -> u64 {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if order >= 3 {
        let width = 1 << (order - 3);
        let used = block.chunks_exact(width).take(count);
        return used.filter(|c| c.iter().any(|b| *b != 0)).count() as u64;
    }
    let width = 1 << order;
    let mask = (1u8 << width) - 1;
    let per_byte = 8 / width;
    let refcounts = block
        .iter()
        .flat_map(|byte| (0..per_byte).map(move |i| byte >> (i * width) & mask));
    refcounts.take(count).filter(|r| *r != 0).count() as u64
}

#[cfg(test)]
mod tests {
    use super::nonzero;

    #[test]
    fn refcounts_of_every_width_are_counted() {
        assert_eq!(nonzero(&[0b0000_0101, 0xff], 0, 4), 2);
        assert_eq!(nonzero(&[0b0000_0101, 0xff], 0, 16), 10);
        assert_eq!(nonzero(&[0b0011_0100], 1, 4), 2);
        assert_eq!(nonzero(&[0x10, 0x01], 2, 4), 2);
        assert_eq!(nonzero(&[0, 1, 2], 3, 2), 1);
        assert_eq!(nonzero(&[0, 0, 0, 1], 4, 2), 1);
        assert_eq!(nonzero(&[0; 8], 6, 1), 0);
    }
}
