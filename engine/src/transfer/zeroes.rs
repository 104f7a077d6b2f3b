//! Finding zero in a buffer that was just read.

use std::ops::Range;

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Blocks of 64 bytes are folded without a branch, which compiles to vector code.
    let mut blocks = bytes.chunks_exact(64);
    let zero = blocks
        .by_ref()
        .all(|block| block.iter().fold(0, |acc, b| acc | b) == 0);
    zero && blocks.remainder().iter().all(|b| *b == 0)
}

/// Splits `bytes`, which begin at byte `at` of the disk, at multiples of `unit` of the disk, and
/// says of each part whether it is zero.
pub(super) fn split_each(
    bytes: &[u8],
    at: u64,
    unit: u64,
) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
    let mut from = 0;
    std::iter::from_fn(move || {
        if from >= bytes.len() {
            return None;
        }
        let to_boundary = unit - at.saturating_add(from as u64) % unit;
        let to = usize::try_from(to_boundary)
            .unwrap_or(usize::MAX)
            .saturating_add(from)
            .min(bytes.len());
        let zero = bytes.get(from..to).is_some_and(is_zero);
        let part = from..to;
        from = to;
        Some((part, zero))
    })
}

/// Like [`split_each`], neighbours of one kind in one part.
pub(super) fn split(bytes: &[u8], at: u64, unit: u64) -> Vec<(Range<usize>, bool)> {
    let mut parts = Vec::new();
    for (part, zero) in split_each(bytes, at, unit) {
        push(&mut parts, part, zero);
    }
    parts
}

/// Appends a part, merging it with a neighbour of its kind.
pub(super) fn push(parts: &mut Vec<(Range<usize>, bool)>, part: Range<usize>, zero: bool) {
    match parts.last_mut() {
        Some((last, kind)) if *kind == zero && last.end == part.start => last.end = part.end,
        _ => parts.push((part, zero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_not_zero() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for i in 0..len {
                bytes[i] = 1;
                assert!(!is_zero(&bytes));
                bytes[i] = 0;
            }
        }
    }

    #[test]
    fn runs_are_cut_at_units_of_the_disk() {
        let mut bytes = vec![0; 20];
        bytes[5] = 1;
        assert_eq!(split(&bytes, 2, 8), [(0..6, false), (6..20, true)]);
        assert_eq!(
            split(&bytes, 0, 4),
            [(0..4, true), (4..8, false), (8..20, true)]
        );
        assert!(split(&[], 7, 8).is_empty());
    }
}
