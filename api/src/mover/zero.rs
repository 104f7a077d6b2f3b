//! Which parts of a piece of a disk are zero.

use std::ops::Range;

/// The piece at `at`, cut where it turns from data to zero and back; `true` marks zero. Looked at
/// in blocks of `unit` bytes of the disk, so that cuts fall on multiples of it.
pub(super) fn runs(at: u64, bytes: &[u8], unit: usize) -> Vec<(Range<usize>, bool)> {
    let unit = unit.max(1);
    let head = usize::try_from(at % unit as u64).unwrap_or(0);
    let (first, rest) = bytes.split_at_checked(unit - head).unwrap_or((bytes, &[]));
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    let mut from = 0;
    for block in std::iter::once(first).chain(rest.chunks(unit)) {
        let to = from + block.len();
        let zero = is_zero(block);
        match runs.last_mut() {
            Some((run, same)) if *same == zero => run.end = to,
            _ if block.is_empty() => {}
            _ => runs.push((from..to, zero)),
        }
        from = to;
    }
    runs
}

/// Small steps without a branch inside: the compiler makes vectors of them.
fn is_zero(block: &[u8]) -> bool {
    block
        .chunks(1024)
        .all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_fall_on_multiples_of_the_unit_of_the_disk() {
        let mut bytes = vec![0; 100];
        bytes[30] = 1;
        // Blocks of the disk: 10..16, 16..32, 32..48, ...
        let found = runs(10, &bytes, 16);
        assert_eq!(found, [(0..22, true), (22..38, false), (38..100, true)]);
        assert_eq!(runs(0, &[0; 5], 16), [(0..5, true)]);
        assert_eq!(runs(7, &[1; 64], 16), [(0..64, false)]);
        assert_eq!(runs(7, &[], 16), []);
    }

    #[test]
    fn runs_cover_all_and_only_zeroes_are_called_zero() {
        for at in [0, 1, 4095, 4096, 70_000] {
            let bytes: Vec<u8> = (0..50_000u32).map(|i| u8::from(i % 9_973 == 0)).collect();
            let mut next = 0;
            for (run, zero) in runs(at, &bytes, 4096) {
                assert_eq!(run.start, next);
                assert_eq!(zero, bytes[run.clone()].iter().all(|b| *b == 0));
                next = run.end;
            }
            assert_eq!(next, bytes.len());
        }
    }
}
