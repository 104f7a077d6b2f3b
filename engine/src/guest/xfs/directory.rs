//! Directories ("Directories"): within the inode, or in blocks of names that are read one after
//! the other. The hash indexes behind them are not looked at.

use super::fields::{be16, be32, be64, byte, index};
use super::inode::{Format, Inode};
use super::map;
use super::store::{Seal, Store};
use crate::guest::{Cursor, Entry, Fault, FileType, NodeId, Page, Result};

/// Names stand in front of this byte of the directory, its indexes behind.
const NAMES_END: u64 = 1 << 35;
/// Bytes in front of a block's names.
const HEAD: usize = 64;
/// Blocks that one call looks at, so that it ends soon in a directory of empty blocks.
const BLOCKS_AT_ONCE: u64 = 4096;

const SEAL: Seal = Seal {
    what: "a block of a directory",
    crc: 4,
    place: 8,
    uuid: 24,
    owner: 40,
};

/// A part of a directory: at most `most` names from `from` on.
pub(super) fn list(store: &Store, dir: &Inode, from: Cursor, most: usize) -> Result<Page> {
    let place = |fault: Fault| fault.at(format!("directory {}", dir.number));
    let mut listing = Listing {
        store,
        dir,
        most: most.max(1),
        page: Page::default(),
    };
    let fork = dir.content().map_err(place)?;
    match fork.format {
        Format::Local => listing.short(fork.body, index(from.0)),
        _ => listing.blocks(from.0),
    }
    .map_err(place)?;
    Ok(listing.page)
}

/// A page while it fills.
struct Listing<'a> {
    store: &'a Store,
    dir: &'a Inode,
    most: usize,
    page: Page,
}

impl Listing<'_> {
    /// Names within the inode: a count, the parent, and short entries without gaps.
    fn short(&mut self, body: &[u8], from: usize) -> Result<()> {
        let wrong = || Fault::damaged("the names do not fit in the inode");
        let body = body.get(..index(self.dir.size)).ok_or_else(wrong)?;
        // Where some inode number is long, all of them are.
        let wide = byte(body, 1) != 0;
        let number_len = if wide { 8 } else { 4 };
        let typed = usize::from(self.store.sb.has_types);
        let mut at = 2 + number_len;
        for _ in 0..byte(body, 0) {
            let name_len = usize::from(byte(body, at));
            let end = at + 3 + name_len + typed + number_len;
            let entry = body.get(at..end).ok_or_else(wrong)?;
            let name = entry.get(3..3 + name_len).unwrap_or_default();
            let behind = entry.get(3 + name_len..).unwrap_or_default();
            let number = match wide {
                true => be64(behind, typed),
                false => be32(behind, typed).into(),
            };
            if at >= from && self.entry(number, name, byte(behind, 0), at as u64)? {
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }

    fn blocks(&mut self, from: u64) -> Result<()> {
        let size = self.store.sb.dir_block as u64;
        let end = self.dir.size.min(NAMES_END);
        let fork = self.dir.content()?;
        let mut at = from / size * size;
        for _ in 0..BLOCKS_AT_ONCE {
            if at >= end {
                return Ok(());
            }
            let (logical, _) = self.store.split(at);
            let found = map::find(self.store, &fork, logical)?;
            let Some(place) = found.at else {
                // Blocks without names are given back.
                let hole = found.len.saturating_mul(self.store.block_size());
                at = at.saturating_add(hole);
                if at < end && !at.is_multiple_of(size) {
                    return Err(Fault::damaged(format!(
                        "the block in front of {at} has a hole"
                    )));
                }
                continue;
            };
            let mut block = vec![0; self.store.sb.dir_block];
            map::read(self.store, &fork, at, &mut block)?;
            self.store.check(&block, &SEAL, place, self.dir.number)?;
            if self.names(&block, at, index(from.saturating_sub(at)))? {
                return Ok(());
            }
            at += size;
        }
        self.page.next = (at < end).then_some(Cursor(at));
        Ok(())
    }

    /// The names of one block; `base` is its cursor, `skip` where in it to begin. Whether the page
    /// is full.
    fn names(&mut self, block: &[u8], base: u64, skip: usize) -> Result<bool> {
        let wrong = |at: usize| {
            Fault::damaged(format!(
                "the entry at {} makes no sense",
                base.saturating_add(at as u64)
            ))
        };
        let end = match block.get(..4) {
            Some(b"XDD3") => block.len(),
            // The only block: its own index stands at its end.
            Some(b"XDB3") if base == 0 => {
                let tail = block.len().saturating_sub(8);
                let leaves = index(be32(block, tail)).saturating_mul(8);
                let end = tail.checked_sub(leaves).filter(|end| *end >= HEAD);
                end.ok_or_else(|| wrong(tail))?
            }
            _ => return Err(wrong(0)),
        };
        let mut at = HEAD;
        while at < end {
            let rest = block.get(at..end).unwrap_or_default();
            if be16(rest, 0) == 0xffff {
                let len = usize::from(be16(rest, 2));
                if len < 8 || !len.is_multiple_of(8) || len > rest.len() {
                    return Err(wrong(at));
                }
                at += len;
                continue;
            }
            let name_len = usize::from(byte(rest, 8));
            let typed = usize::from(self.store.sb.has_types);
            let len = (9 + name_len + typed + 2).next_multiple_of(8);
            let entry = rest.get(..len).ok_or_else(|| wrong(at))?;
            if usize::from(be16(entry, len - 2)) != at {
                return Err(wrong(at));
            }
            let name = entry.get(9..9 + name_len).unwrap_or_default();
            let cursor = base.saturating_add(at as u64);
            let kind = byte(entry, 9 + name_len);
            if at >= skip && self.entry(be64(entry, 0), name, kind, cursor)? {
                return Ok(true);
            }
            at += len;
        }
        Ok(false)
    }

    /// Takes a name in; whether the page was full, so that it goes on with this one.
    fn entry(&mut self, number: u64, name: &[u8], kind: u8, cursor: u64) -> Result<bool> {
        if name == b"." || name == b".." {
            return Ok(false);
        }
        if self.page.entries.len() >= self.most {
            self.page.next = Some(Cursor(cursor));
            return Ok(true);
        }
        if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'/')) {
            let name = String::from_utf8_lossy(name);
            return Err(Fault::damaged(format!("a name that is none: {name:?}")));
        }
        let typed = self.store.sb.has_types;
        self.page.entries.push(Entry {
            name: name.to_vec(),
            node: NodeId(number),
            file_type: typed.then(|| file_type(kind)).flatten(),
        });
        Ok(false)
    }
}

/// The type that an entry tells.
fn file_type(kind: u8) -> Option<FileType> {
    Some(match kind {
        1 => FileType::File,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}
