//! Directories: slots, one after the other, up to the first that was never used.

use super::boot::{Root, SLOT};
use super::name::{self, Long};
use super::slot::{Node, Use};
use super::table::Store;
use crate::guest::{Cursor, Entry, NodeId, Page, Result};

/// The longest directory that the format allows.
const LONGEST: u64 = 65_536 * SLOT;

/// The parts of a directory on the volume: places and lengths in bytes.
fn parts(store: &Store, dir: Root) -> Result<Vec<(u64, u64)>> {
    let first = match dir {
        Root::Fixed { at, len } => return Ok(vec![(at, len)]),
        Root::Chain(first) => first,
    };
    let size = u64::from(store.boot.cluster_size);
    let mut clusters = Vec::new();
    store.count(first, (LONGEST / size).max(1), |c| clusters.push(c))?;
    let place = |cluster: u32| Ok((store.place(cluster)?, size));
    clusters.into_iter().map(place).collect()
}

/// Looks at the slots from number `from` on, with their places and numbers, until `each` says
/// that it has enough.
fn slots(
    store: &Store,
    dir: Root,
    from: u64,
    mut each: impl FnMut(u64, u64, &[u8]) -> bool,
) -> Result<()> {
    let mut number: u64 = 0;
    for (at, len) in parts(store, dir)? {
        let count = len / SLOT;
        if number + count <= from {
            number += count;
            continue;
        }
        let bytes = store.blocks.bytes(at, usize::try_from(len).unwrap_or(0))?;
        for (slot, place) in bytes.chunks_exact(32).zip((at..).step_by(32)) {
            if number >= from && (Use::of(slot) == Use::End || !each(number, place, slot)) {
                return Ok(());
            }
            number += 1;
        }
    }
    Ok(())
}

/// A part of a directory: at most `most` names from `from` on. A cursor is the number of a slot.
pub(super) fn list(store: &Store, dir: Root, from: Cursor, most: usize) -> Result<Page> {
    let (mut page, mut long) = (Page::default(), Long::default());
    slots(store, dir, from.0, |number, place, slot| {
        match Use::of(slot) {
            Use::Long => long.push(slot),
            Use::Node => {
                let name = long.take(slot).unwrap_or_else(|| name::short(slot));
                page.entries.push(Entry {
                    name,
                    node: NodeId(place),
                    file_type: Some(Node::of(slot, store.boot.kind).file_type()),
                });
                if page.entries.len() >= most {
                    page.next = Some(Cursor(number + 1));
                    return false;
                }
            }
            Use::Skipped | Use::Label | Use::End => long = Long::default(),
        }
        true
    })?;
    Ok(page)
}

/// The volume's label, which stands in the root directory.
pub(super) fn label(store: &Store) -> Result<Option<String>> {
    let mut label = None;
    slots(store, store.boot.root, 0, |_, _, slot| {
        if Use::of(slot) == Use::Label {
            label = slot.get(..11).map(name::text);
        }
        label.is_none()
    })?;
    Ok(label.filter(|label| !label.is_empty()))
}
