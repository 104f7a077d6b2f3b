//! From damaged host clusters back to the bytes of the disk that lie there.

use std::collections::{BTreeSet, HashMap};

use sendense_formats::GuestRange;

use crate::chain::{Chain, ChainOptions, Content};
use crate::repository::LayerFile;

/// Guest bytes that are mapped at once.
const STEP: u64 = 512 << 20;
/// Guest ranges that are kept per cluster.
const MAX_RANGES: usize = 16;

/// The guest ranges whose data lies in each of these host clusters of the layer. Best effort:
/// where the tables themselves are damaged, what can still be read of them is used.
pub(super) fn kept_in(layer: &LayerFile, bad: &[u64]) -> HashMap<u64, Vec<GuestRange>> {
    let mut found: HashMap<u64, Vec<GuestRange>> = HashMap::new();
    if bad.is_empty() {
        return found;
    }
    let bad: BTreeSet<u64> = bad.iter().copied().collect();
    let options = ChainOptions {
        ignore_backing: true,
        ..ChainOptions::default()
    };
    let Ok(chain) = Chain::open([layer], options) else {
        return found;
    };
    let bits = layer.checksums.cluster().bits();
    let mut at = 0;
    while at < chain.size() {
        let Some(range) = GuestRange::new(at, STEP.min(chain.size() - at)) else {
            break;
        };
        at = range.end().get();
        let Ok(pieces) = chain.map(range) else {
            continue;
        };
        for piece in pieces {
            let (host, len) = match piece.content {
                Content::Data { host } => (host.get(), piece.range.len()),
                Content::Compressed { host, len } => (host.get(), len as u64),
                _ => continue,
            };
            let (first, last) = (host >> bits, (host + len.saturating_sub(1)) >> bits);
            for cluster in bad.range(first..=last) {
                let ranges = found.entry(*cluster).or_default();
                if ranges.len() < MAX_RANGES {
                    ranges.extend(part(piece.range, piece.content, host, *cluster, bits));
                }
            }
        }
    }
    found
}

/// The part of a piece that lies in one host cluster.
fn part(
    range: GuestRange,
    content: Content,
    host: u64,
    cluster: u64,
    bits: u32,
) -> Option<GuestRange> {
    if matches!(content, Content::Compressed { .. }) {
        return Some(range);
    }
    let (start, end) = (cluster << bits, (cluster + 1) << bits);
    let from = start.max(host) - host;
    let to = end.saturating_sub(host).min(range.len());
    GuestRange::new(range.start().get() + from, to.saturating_sub(from)).filter(|r| !r.is_empty())
}
