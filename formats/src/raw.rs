//! Raw (flat) images: guest byte `n` is file byte `n`. There is no metadata; what there is to know
//! is the size, and that direct I/O wants it in whole blocks.

use crate::error::{Error, ErrorKind, Result};
use crate::range::{GuestRange, HostOffset};

/// A flat image of an exact byte size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    size: u64,
}

impl Raw {
    /// The largest disk: offsets in files are signed.
    pub const MAX_SIZE: u64 = i64::MAX.unsigned_abs();

    /// Describes an image of `size` bytes, any value up to [`MAX_SIZE`](Self::MAX_SIZE).
    pub fn new(size: u64) -> Result<Self> {
        if size > Self::MAX_SIZE {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a disk of {size} bytes is larger than any file can be"),
            ));
        }
        Ok(Self { size })
    }

    /// The disk's size in bytes.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The size in whole blocks: what is written before the file is cut to [`size`](Self::size).
    /// `None` for a block of 0, or past the largest file.
    pub const fn aligned_size(self, block: u64) -> Option<u64> {
        if block == 0 {
            return None;
        }
        match self.size.checked_next_multiple_of(block) {
            Some(aligned) if aligned <= Self::MAX_SIZE => Some(aligned),
            _ => None,
        }
    }

    /// Where a range lies in the file: the offset and the length inside of the disk. `None` for a
    /// range that holds no byte of it.
    pub fn locate(self, range: GuestRange) -> Option<(HostOffset, u64)> {
        let inside = range.intersect(GuestRange::new(0, self.size)?);
        (!inside.is_empty()).then(|| (HostOffset::new(inside.start().get()), inside.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_exact_and_its_aligned_form_whole_blocks() {
        let raw = Raw::new((3 << 30) + 512).unwrap();
        assert_eq!(raw.size(), (3 << 30) + 512);
        assert_eq!(raw.aligned_size(4096), Some((3 << 30) + 4096));
        assert_eq!(raw.aligned_size(512), Some(raw.size()));
        assert_eq!(raw.aligned_size(0), None);
        assert_eq!(Raw::new(u64::MAX).unwrap_err().kind, ErrorKind::TooLarge);
        assert_eq!(Raw::new(Raw::MAX_SIZE).unwrap().aligned_size(4096), None);
    }

    #[test]
    fn a_range_is_cut_at_the_end_of_the_disk() {
        let raw = Raw::new(1000).unwrap();
        let at = |start, len| raw.locate(GuestRange::new(start, len).unwrap());
        assert_eq!(at(0, 1000), Some((HostOffset::new(0), 1000)));
        assert_eq!(at(990, 100), Some((HostOffset::new(990), 10)));
        assert_eq!(at(1000, 1), None);
        assert_eq!(at(5, 0), None);
    }
}
