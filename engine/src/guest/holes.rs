//! Where a file's data goes on behind a hole.

use std::ops::Range;

use super::Result;

/// Runs that one search looks at; a map of more holes in a row answers "data".
const MAX_HOLES: usize = 16 << 10;

/// The next bytes from `from` on that are no hole, of a file of `size` bytes that is mapped in
/// units of `unit` bytes. `find` tells of a unit how many behind it are alike, at least one, and
/// whether they hold data.
///
/// # Errors
/// Whatever `find` meets.
pub(super) fn next_data(
    size: u64,
    unit: u64,
    from: u64,
    mut find: impl FnMut(u64) -> Result<(u64, bool)>,
) -> Result<Option<Range<u64>>> {
    if from >= size {
        return Ok(None);
    }
    let mut logical = from / unit.max(1);
    for _ in 0..MAX_HOLES {
        let (len, is_data) = find(logical)?;
        let start = logical.saturating_mul(unit).max(from);
        logical = logical.saturating_add(len);
        let end = logical.saturating_mul(unit).min(size);
        if is_data {
            return Ok(Some(start..end));
        }
        if end >= size {
            return Ok(None);
        }
    }
    Ok(Some(logical.saturating_mul(unit)..size))
}
