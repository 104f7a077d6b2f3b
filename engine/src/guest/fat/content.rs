//! The bytes of a file.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::slot::Node;
use super::table::Store;
use crate::guest::{Blocks, Fault, Result};

/// Where the last read ended, so that the next one does not begin at the chain's first cluster.
/// A chain that stands here was walked to its end: it has no loop.
#[derive(Debug, Clone, Copy)]
struct Spot {
    first: u32,
    count: u64,
    index: u64,
    cluster: u32,
}

/// The files' chains, as far as they were followed.
#[derive(Debug, Default)]
pub(super) struct Reading {
    last: Mutex<Option<Spot>>,
}

impl Reading {
    fn last(&self) -> MutexGuard<'_, Option<Spot>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in a file's chain, at cluster `index` or in front of it.
    fn spot(&self, store: &Store, file: &Node, index: u64) -> Result<Spot> {
        let begin = |count| Spot {
            first: file.first,
            count,
            index: 0,
            cluster: file.first,
        };
        let last = *self.last();
        let spot = match last.filter(|spot| spot.first == file.first) {
            Some(spot) if spot.index <= index => spot,
            Some(spot) => begin(spot.count),
            None => {
                let most = u64::from(u32::MAX).div_ceil(store.boot.cluster_size.into());
                begin(store.count(file.first, most, |_| ())?)
            }
        };
        let needed = u64::from(file.size).div_ceil(store.boot.cluster_size.into());
        if spot.count < needed {
            return Err(Fault::damaged(format!(
                "a file of {} bytes has {} clusters and needs {needed}",
                file.size, spot.count
            )));
        }
        Ok(spot)
    }

    /// Reads at `at`; how much, less than `buf` only at the end.
    pub(super) fn read(
        &self,
        store: &Store,
        file: &Node,
        at: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        let left = u64::from(file.size).saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let mut rest = buf.get_mut(..len).unwrap_or_default();
        if rest.is_empty() {
            return Ok(0);
        }
        let size = u64::from(store.boot.cluster_size);
        let mut spot = self.spot(store, file, at / size)?;
        let mut at = at;
        while !rest.is_empty() {
            while spot.index < at / size {
                spot = follow(store, spot)?;
            }
            let (begin, skip) = (spot.cluster, at % size);
            let mut bytes = size - skip;
            // Clusters that follow each other are read at once.
            while bytes < rest.len() as u64 && store.next(spot.cluster)? == Some(spot.cluster + 1) {
                spot = follow(store, spot)?;
                bytes += size;
            }
            let now = usize::try_from(bytes).unwrap_or(usize::MAX).min(rest.len());
            let Some((here, behind)) = std::mem::take(&mut rest).split_at_mut_checked(now) else {
                break;
            };
            store.blocks.read_at(store.place(begin)? + skip, here)?;
            at += now as u64;
            rest = behind;
        }
        *self.last() = Some(spot);
        Ok(len)
    }
}

fn follow(store: &Store, spot: Spot) -> Result<Spot> {
    let next = store.next(spot.cluster)?;
    let cluster = next.ok_or_else(|| Fault::damaged("a file's chain ends before the file"))?;
    Ok(Spot {
        index: spot.index + 1,
        cluster,
        ..spot
    })
}
