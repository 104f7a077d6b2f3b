//! Refcount blocks: one number of 1 to 64 bits for every host cluster.
//!
//! Numbers of less than a byte fill each byte from its lowest bit on; wider ones are big endian.
//! Refcount table entry `i` points at the block for clusters `i * per_block()` and on.

use super::layout::REFCOUNT_TABLE_RESERVED;
use crate::range::{ClusterSize, HostOffset};

/// The width of refcounts, and how they fill a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefcountShape {
    order: u32,
    cluster: ClusterSize,
}

impl RefcountShape {
    /// Refcounts of `1 << order` bits; `None` beyond 64 bits.
    pub const fn new(order: u32, cluster: ClusterSize) -> Option<Self> {
        if order > 6 {
            return None;
        }
        Some(Self { order, cluster })
    }

    /// Clusters that one block covers, at least 64.
    pub const fn per_block(self) -> u64 {
        (self.cluster.bytes() * 8) >> self.order
    }

    /// The largest refcount.
    pub const fn max(self) -> u64 {
        u64::MAX >> (64 - (1_u32 << self.order))
    }

    /// Refcount `index` of a block; `None` behind its end.
    pub fn get(self, block: &[u8], index: u64) -> Option<u64> {
        let (at, len, shift) = self.place(index)?;
        let bytes = block.get(at..at.checked_add(len)?)?;
        let value = bytes.iter().fold(0_u64, |v, b| v << 8 | u64::from(*b));
        Some(value >> shift & self.max())
    }

    /// Sets refcount `index` of a block, cut to its width; returns the bytes that it lies in.
    pub fn set(self, block: &mut [u8], index: u64, value: u64) -> Option<std::ops::Range<usize>> {
        let (at, len, shift) = self.place(index)?;
        let range = at..at.checked_add(len)?;
        let bytes = block.get_mut(range.clone())?;
        match bytes {
            [byte] => {
                let mask = u8::try_from(self.max()).ok()?;
                let value = u8::try_from(value & self.max()).ok()?;
                *byte = *byte & !(mask << shift) | value << shift;
            }
            _ => {
                let all = value.to_be_bytes();
                bytes.copy_from_slice(all.get(8_usize.checked_sub(len)?..)?);
            }
        }
        Some(range)
    }

    /// First byte, number of bytes, and how far the number is shifted in them.
    fn place(self, index: u64) -> Option<(usize, usize, u32)> {
        if self.order >= 3 {
            let len = 1_usize << (self.order - 3);
            let at = usize::try_from(index).ok()?.checked_mul(len)?;
            return Some((at, len, 0));
        }
        let per_byte = 8_u64 >> self.order;
        let shift = u32::try_from(index % per_byte).ok()? << self.order;
        Some((usize::try_from(index / per_byte).ok()?, 1, shift))
    }
}

/// Where a refcount table entry points.
pub(super) const fn block_at(entry: u64) -> Option<HostOffset> {
    match entry & !REFCOUNT_TABLE_RESERVED {
        0 => None,
        at => Some(HostOffset::new(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(order: u32) -> RefcountShape {
        RefcountShape::new(order, ClusterSize::DEFAULT).unwrap()
    }

    #[test]
    fn each_width_lies_where_the_specification_says() {
        let block = [0b1101_0010, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd];
        assert_eq!(shape(0).get(&block, 1), Some(1));
        assert_eq!(shape(0).get(&block, 2), Some(0));
        assert_eq!(shape(0).get(&block, 8), Some(1));
        assert_eq!(shape(1).get(&block, 0), Some(0b10));
        assert_eq!(shape(1).get(&block, 3), Some(0b11));
        assert_eq!(shape(2).get(&block, 1), Some(0b1101));
        assert_eq!(shape(3).get(&block, 2), Some(0x23));
        assert_eq!(shape(4).get(&block, 1), Some(0x2345));
        assert_eq!(shape(5).get(&block, 1), Some(0x6789_abcd));
        assert_eq!(shape(6).get(&block, 0), Some(0xd201_2345_6789_abcd));
        assert_eq!(shape(6).get(&block, 1), None);
        assert_eq!(
            (shape(0).max(), shape(4).max(), shape(6).max()),
            (1, 0xffff, u64::MAX)
        );
        assert_eq!(
            (shape(0).per_block(), shape(6).per_block()),
            (524_288, 8192)
        );
        assert!(RefcountShape::new(7, ClusterSize::DEFAULT).is_none());
    }

    #[test]
    fn setting_one_leaves_the_others() {
        for order in 0..=6 {
            let shape = shape(order);
            let mut block = vec![0xff; 64];
            let count = (64 * 8) >> order;
            for index in (0..count).step_by(2) {
                shape.set(&mut block, index, 0).unwrap();
            }
            for index in 0..count {
                let wanted = if index % 2 == 0 { 0 } else { shape.max() };
                assert_eq!(shape.get(&block, index), Some(wanted), "{order} {index}");
            }
            assert!(shape.set(&mut block, count, 1).is_none());
            assert!(shape.get(&block, u64::MAX).is_none());
        }
    }
}
