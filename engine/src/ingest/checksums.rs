//! CRC-32 of every cluster of the file, in file order; kept in blocks, so that growing never
//! copies.

use std::fmt;

use sendense_formats::ClusterSize;

use crate::repository::SumSource;

/// Checksums in one block.
const BLOCK: usize = 1 << 14;

/// CRC-32 (IEEE) of each host cluster. Clusters that were never written count as zero bytes.
#[derive(Clone)]
pub struct Checksums {
    cluster: ClusterSize,
    blocks: Vec<Box<[u32]>>,
    len: usize,
    /// Of a cluster of zero bytes.
    zero: u32,
}

impl fmt::Debug for Checksums {
    /// How many; there may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checksums")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Checksums {
    pub(crate) fn new(cluster: ClusterSize) -> Self {
        Self {
            cluster,
            blocks: Vec::new(),
            len: 0,
            zero: crc32fast::hash(&vec![0; cluster.bytes_usize()]),
        }
    }

    /// The size of the clusters.
    pub const fn cluster(&self) -> ClusterSize {
        self.cluster
    }

    /// How many clusters the file has.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Of one host cluster, by its number in the file.
    pub fn get(&self, cluster: u64) -> Option<u32> {
        let index = usize::try_from(cluster).ok().filter(|i| *i < self.len)?;
        self.blocks.get(index / BLOCK)?.get(index % BLOCK).copied()
    }

    /// All, in file order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().flatten().copied().take(self.len)
    }

    pub(crate) fn set(&mut self, cluster: u64, crc: u32) {
        let Ok(index) = usize::try_from(cluster) else {
            return;
        };
        while self.blocks.len() <= index / BLOCK {
            self.blocks.push(vec![self.zero; BLOCK].into_boxed_slice());
        }
        self.len = self.len.max(index + 1);
        let slot = self.blocks.get_mut(index / BLOCK);
        if let Some(slot) = slot.and_then(|b| b.get_mut(index % BLOCK)) {
            *slot = crc;
        }
    }
}

impl SumSource for Checksums {
    fn count(&self) -> u64 {
        self.len as u64
    }

    fn sums(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_clusters_of_zeros() {
        let mut sums = Checksums::new(ClusterSize::DEFAULT);
        assert!(sums.is_empty());
        sums.set(40_000, 7);
        sums.set(2, 9);
        assert_eq!(sums.len(), 40_001);
        assert_eq!(sums.get(2), Some(9));
        assert_eq!(sums.get(3), Some(crc32fast::hash(&[0; 65536])));
        assert_eq!(sums.get(40_001), None);
        assert_eq!(sums.iter().count(), 40_001);
        assert_eq!(sums.iter().last(), Some(7));
    }
}
