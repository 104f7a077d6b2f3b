//! The second and third walk: what was taken back, then the blocks themselves.

use std::collections::HashMap;

use super::descriptor::{HEAD, tags};
use super::header::MAGIC;
use super::log::Log;
use super::scan::{Kind, Scan, before};
use crate::guest::ext::fields::{be32, index, wide};
use crate::guest::{Fault, FaultKind, Overlay, Result};

/// Blocks that may be taken back at most.
const MOST: usize = 4 << 20;
/// Bytes in front of the first record of a revocation block.
const REVOKE_HEAD: usize = 16;

/// Puts the blocks of all complete transactions over the volume.
///
/// # Errors
/// `Damaged` where a block is not what was committed, `Limit` where they are too many.
pub(super) fn replay(log: &Log<'_>, scan: &Scan, over: &mut Overlay) -> Result<()> {
    let revoked = revoked(log, scan)?;
    for (sequence, kind, number) in &scan.blocks {
        if *kind != Kind::Descriptor {
            continue;
        }
        let block = log.block(*number)?;
        let mut at = *number;
        for tag in tags(log, &block) {
            at = log.next(at);
            // A revocation counts for its own transaction and those before it.
            if revoked
                .get(&tag.block)
                .is_some_and(|last| !before(*last, *sequence))
            {
                continue;
            }
            let mut data = log.block(at)?;
            if !tag.holds(log, *sequence, &data) {
                return Err(Fault::damaged(format!(
                    "the checksum of block {} in transaction {sequence} is wrong",
                    tag.block
                )));
            }
            if let Some(front) = data.get_mut(..4).filter(|_| tag.escaped) {
                front.copy_from_slice(&MAGIC.to_be_bytes());
            }
            over.put(tag.block, data.into())?;
        }
    }
    Ok(())
}

/// The blocks that were taken back, each with the last transaction that did so ("Revocation
/// Block").
fn revoked(log: &Log<'_>, scan: &Scan) -> Result<HashMap<u64, u32>> {
    let mut all = HashMap::new();
    let len = if log.head.wide { 8 } else { 4 };
    for (sequence, kind, number) in &scan.blocks {
        if *kind != Kind::Revoke {
            continue;
        }
        let block = log.block(*number)?;
        let used = index(be32(&block, HEAD));
        if used > log.room() {
            return Err(Fault::damaged(format!("{used} bytes of revocations")));
        }
        let records = block.get(REVOKE_HEAD..used).unwrap_or_default();
        for record in records.chunks_exact(len) {
            let block = match log.head.wide {
                true => wide(be32(record, 0), be32(record, 4)),
                false => be32(record, 0).into(),
            };
            let last = all.entry(block).or_insert(*sequence);
            if before(*last, *sequence) {
                *last = *sequence;
            }
        }
        if all.len() > MOST {
            return Err(Fault::new(FaultKind::Limit, "too many revocations"));
        }
    }
    Ok(all)
}
