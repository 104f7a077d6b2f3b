//! Free space: what is left, what is kept back, and a file that is given up so that a delete goes
//! through on a full file system.

use super::layout::RESERVE_FILE;
use super::store::Inner;
use crate::storage::{Create, Directory, Space};
use crate::{Error, ErrorKind, Result};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Bytes of the file that is given up.
const RESERVE_BYTES: usize = 1 << 20;

/// Free space, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceState {
    /// As the file system tells.
    pub space: Space,
    /// Bytes that stay free.
    pub reserve: u64,
    /// The judgement.
    pub verdict: SpaceVerdict,
}

/// Whether space is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceVerdict {
    /// It is.
    Enough,
    /// Little is left beyond the reserve: time for a warning.
    Low,
    /// The reserve is reached: nothing begins, and what runs should end.
    Exhausted,
}

pub(super) fn state(inner: &Inner) -> Result<SpaceState> {
    let space = inner.dir.space();
    let space = space.map_err(|e| inner.io("asking for its free space", e))?;
    let part = |percent: u64, most: u64| (space.total / 100).saturating_mul(percent).min(most);
    let reserve = inner.options.reserve.unwrap_or_else(|| part(1, 4 * GIB));
    let warn = inner.options.warn.unwrap_or_else(|| part(4, 32 * GIB));
    let verdict = if space.available <= reserve {
        SpaceVerdict::Exhausted
    } else if space.available - reserve < warn {
        SpaceVerdict::Low
    } else {
        SpaceVerdict::Enough
    };
    Ok(SpaceState {
        space,
        reserve,
        verdict,
    })
}

/// Refuses to begin anything below the reserve.
pub(super) fn refuse_when_exhausted(inner: &Inner) -> Result<SpaceState> {
    let state = state(inner)?;
    if state.verdict == SpaceVerdict::Exhausted {
        return Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "repository {} has {} MiB left, and {} MiB stay free",
                inner.options.name,
                state.space.available / MIB,
                state.reserve / MIB
            ),
        ));
    }
    Ok(state)
}

/// Makes the file that is given up, where there is none. Without it everything works but a delete
/// on a file system without a single block, so a failure is not one of the caller's.
pub(super) fn keep_reserve(dir: &dyn Directory) {
    let Ok(file) = dir.open(RESERVE_FILE, Create::New) else {
        return;
    };
    // Bytes that do not compress away.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let bytes: Vec<u8> = (0..RESERVE_BYTES / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    if file
        .write_at_blocking(0, &bytes)
        .and_then(|()| file.sync_blocking())
        .is_err()
    {
        let _ = dir.remove_file(RESERVE_FILE);
    }
}

/// Runs something that frees space; where it fails for lack of space, gives the reserve up and
/// runs it once more.
pub(super) fn with_reserve<T>(
    dir: &dyn Directory,
    mut run: impl FnMut() -> std::io::Result<T>,
) -> std::io::Result<T> {
    match run() {
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {
            dir.remove_file(RESERVE_FILE)?;
            run()
        }
        other => other,
    }
}
