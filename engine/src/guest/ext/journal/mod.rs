//! The journal ("Journal (jbd2)"): what was committed and not yet written in place is put over
//! the volume, in memory.

mod descriptor;
mod header;
mod log;
mod replay;
mod scan;

use std::sync::Arc;

pub(in crate::guest::ext) use log::{Log, bounded};

use super::fast::Recent;
use super::store::Store;
use super::superblock::{compat, incompat};
use crate::guest::{Blocks, Fault, FaultKind, OpenOptions, Overlay, Result, State};

/// What a replay makes of a volume.
pub(super) struct Replayed {
    pub(super) blocks: Arc<dyn Blocks>,
    pub(super) recent: Recent,
    pub(super) state: State,
}

/// Replays the journal of `store`, which stands on `volume`, where there is something in it.
///
/// # Errors
/// `Stale` for a journal that cannot be replayed, unless that was accepted; where the volume
/// cannot be read.
pub(super) fn replay(
    volume: &Arc<dyn Blocks>,
    store: &Store,
    options: &OpenOptions,
) -> Result<Replayed> {
    let unchanged = |state| Replayed {
        blocks: Arc::clone(volume),
        recent: Recent::default(),
        state,
    };
    if store.sb.incompat & incompat::RECOVER == 0 {
        return Ok(unchanged(State::Clean));
    }
    match committed(volume, store, options.replay_bytes) {
        Ok(Some(replayed)) => Ok(replayed),
        Ok(None) => Ok(unchanged(State::Clean)),
        Err(fault) if fault.kind == FaultKind::Io => Err(fault),
        Err(fault) => {
            let reason = format!("the journal cannot be replayed: {fault}");
            Ok(unchanged(options.unreplayed(reason)?))
        }
    }
}

/// `None` where the journal is empty.
fn committed(volume: &Arc<dyn Blocks>, store: &Store, memory: usize) -> Result<Option<Replayed>> {
    let sb = &store.sb;
    if sb.compat & compat::HAS_JOURNAL == 0 {
        return Err(Fault::damaged("recovery is needed and there is no journal"));
    }
    if sb.journal_inode == 0 {
        return Err(Fault::unsupported("it stands on another device"));
    }
    let log = Log::open(store)?;
    if log.head.start == 0 {
        return Ok(None);
    }
    let scan = scan::scan(&log)?;
    let mut over = Overlay::new(Arc::clone(volume), sb.block_size, memory);
    replay::replay(&log, &scan, &mut over)?;
    let transactions = scan.end.wrapping_sub(log.head.sequence);
    let mut reason = format!("{transactions} transactions in {} blocks", over.len());
    let blocks: Arc<dyn Blocks> = Arc::new(over);
    let recent = match log.fast_area() {
        Some(area) => {
            let replayed = Store {
                blocks: Arc::clone(&blocks),
                sb: sb.clone(),
                recent: Recent::default(),
            };
            Recent::read(&log, area, scan.end, &replayed)?
        }
        None => Recent::default(),
    };
    if recent.commits > 0 {
        reason.push_str(&format!(", and {} fast commits", recent.commits));
    }
    Ok(Some(Replayed {
        blocks,
        recent,
        state: State::Replayed { reason },
    }))
}
