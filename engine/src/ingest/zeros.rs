//! Finding zero clusters in a hot buffer: exact, never sampled.

/// Compared against, so that the platform's `memcmp` does the work; it stays in the first-level
/// cache.
static ZEROS: [u8; 4096] = [0; 4096];

/// Whether every byte is zero.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(ZEROS.len());
    blocks.all(|block| block == ZEROS.as_slice())
        && blocks.remainder().iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_counts() {
        for len in [0, 1, 511, 4096, 65536, 65537] {
            let mut bytes = vec![0; len];
            assert!(all_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    bytes[at] = 1;
                    assert!(!all_zero(&bytes), "{at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
