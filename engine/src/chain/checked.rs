//! Reading a layer's file only where its checksums agree.
//!
//! A checksum belongs to a whole *host* cluster, so what is read is widened to clusters. A cluster
//! without a known checksum is damage too: asked to check, we do not answer unchecked.

use std::fmt::Debug;

use sendense_formats::ClusterSize;

use super::layer::Layer;
use crate::{Error, Result};

/// The CRC-32 of host clusters, kept beside the images of a chain.
pub trait Checksums: Debug + Send + Sync {
    /// The checksum of host cluster `cluster` (counted in the image's cluster size) of layer
    /// `depth`, 0 being the newest.
    fn crc(&self, depth: usize, cluster: u64) -> Option<u32>;
}

/// The checksums of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked<'a> {
    pub(super) sums: &'a dyn Checksums,
    pub(super) depth: usize,
}

/// Bytes that are read and checked at once.
const WINDOW: u64 = 1 << 20;

impl Checked<'_> {
    /// Fills `buf` from byte `at` of the layer's file, checking every cluster that it touches.
    /// A raw layer has no checksums and is read as it is.
    pub(super) fn read(&self, layer: &Layer, at: u64, buf: &mut [u8]) -> Result<()> {
        let io = |e| Error::io(layer.name(), e);
        let Some(cluster) = layer.image().map(|i| i.cluster()) else {
            return layer.file().read_at_blocking(at, buf).map_err(io);
        };
        let size = cluster.bytes();
        let end = at.saturating_add(buf.len() as u64);
        let mut from = at - at % size;
        while from < end {
            let to = from
                .saturating_add(WINDOW.max(size))
                .min(end.div_ceil(size).saturating_mul(size));
            let len = usize::try_from(to - from).unwrap_or(0);
            let mut bytes = vec![0; len];
            layer
                .file()
                .read_at_blocking(from, &mut bytes)
                .map_err(io)?;
            self.check(layer, cluster, from, &bytes)?;
            let (lo, hi) = (from.max(at), to.min(end));
            let part = |base: u64| {
                let from = usize::try_from(lo - base).unwrap_or(usize::MAX);
                let to = usize::try_from(hi - base).unwrap_or(usize::MAX);
                from..to
            };
            if let (Some(dst), Some(src)) = (buf.get_mut(part(at)), bytes.get(part(from))) {
                dst.copy_from_slice(src);
            }
            from = to;
        }
        Ok(())
    }

    fn check(&self, layer: &Layer, size: ClusterSize, at: u64, bytes: &[u8]) -> Result<()> {
        let first = at >> size.bits();
        for (index, cluster) in (first..).zip(bytes.chunks(size.bytes_usize())) {
            // The file may end inside of its last cluster.
            let there = layer.file_len().saturating_sub(index << size.bits());
            let there = usize::try_from(there).unwrap_or(usize::MAX);
            let cluster = cluster.get(..there).unwrap_or(cluster);
            let found = crc32fast::hash(cluster);
            match self.sums.crc(self.depth, index) {
                Some(wanted) if wanted == found => {}
                Some(wanted) => {
                    return Err(layer.damaged(format_args!(
                        "host cluster {index} has CRC {found:08x}, recorded was {wanted:08x}"
                    )));
                }
                None => {
                    return Err(layer.damaged(format_args!("no checksum for host cluster {index}")));
                }
            }
        }
        Ok(())
    }
}
