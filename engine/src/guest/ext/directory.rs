//! Directories ("Linear (Classic) Directories"). The blocks of hash trees look like empty entries
//! to who reads one block after the other, so this reads both kinds.

use super::crc;
use super::fast::MORE;
use super::fields::{byte, index, le16, le32};
use super::inode::{Inode, flag};
use super::store::Store;
use super::superblock::incompat;
use super::{content, run, xattr};
use crate::guest::{Cursor, Entry, Fault, FileType, NodeId, Page, Result};

/// Bytes in front of a name.
const HEAD: usize = 8;
/// The shortest entry; that of the checksum too.
const SHORTEST: usize = 12;
/// Blocks that one call looks at, so that it ends soon in a directory of empty blocks.
const BLOCKS_AT_ONCE: usize = 4096;
/// Where the second part of a directory within an inode begins, as a cursor.
const INLINE_REST: u64 = 64;

/// A part of a directory: at most `most` names from `from` on.
pub(super) fn list(store: &Store, dir: &Inode, from: Cursor, most: usize) -> Result<Page> {
    content::readable(dir)?;
    let place = |fault: Fault| fault.at(format!("directory {}", dir.number));
    let mut listing = Listing {
        store,
        dir,
        most: most.max(1),
        page: Page::default(),
    };
    if from.0 < MORE && !store.recent.is_fresh(dir.number) {
        match dir.has(flag::INLINE) {
            true => listing.inline(from.0),
            false => listing.blocks(from.0),
        }
        .map_err(place)?;
    }
    if listing.page.next.is_none() {
        listing.recent(from.0);
    }
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
    fn blocks(&mut self, from: u64) -> Result<()> {
        let size = self.store.block_size();
        let count = self.dir.size.div_ceil(size);
        let (first, mut skip) = self.store.split(from);
        for logical in first..count {
            if logical - first >= BLOCKS_AT_ONCE as u64 {
                self.page.next = Some(Cursor(logical.saturating_mul(size)));
                return Ok(());
            }
            let found = run::find(self.store, self.dir, logical)?;
            let Some(at) = found.at else {
                return Err(Fault::damaged(format!("block {logical} is missing")));
            };
            let block = self.store.block(at)?;
            self.verify(&block, logical)?;
            self.entries(&block, logical.saturating_mul(size), skip)?;
            if self.page.next.is_some() {
                return Ok(());
            }
            skip = 0;
        }
        Ok(())
    }

    /// A directory within its inode: the parent's number, entries, and more of them in an
    /// attribute.
    fn inline(&mut self, from: u64) -> Result<()> {
        if from < INLINE_REST {
            let first = self.dir.body().get(4..).unwrap_or_default();
            self.entries(first, 0, index(from))?;
        }
        if self.page.next.is_none() {
            let rest = xattr::inline_rest(self.store, self.dir)?;
            let skip = index(from.saturating_sub(INLINE_REST));
            self.entries(&rest, INLINE_REST, skip)?;
        }
        Ok(())
    }

    /// The names of fast commits that the directory's own blocks do not have yet.
    fn recent(&mut self, from: u64) {
        let skip = index(from.saturating_sub(MORE));
        for (n, (name, link)) in self
            .store
            .recent
            .names(self.dir.number)
            .enumerate()
            .skip(skip)
        {
            let Some((number, file_type)) = link else {
                continue;
            };
            if self.page.entries.len() >= self.most {
                self.page.next = Some(Cursor(MORE.saturating_add(n as u64)));
                return;
            }
            self.page.entries.push(Entry {
                name: name.clone(),
                node: NodeId((*number).into()),
                file_type: *file_type,
            });
        }
    }

    /// The entries of one block, or of what stands for one; `base` is its cursor, `skip` where
    /// in it to begin.
    fn entries(&mut self, block: &[u8], base: u64, skip: usize) -> Result<()> {
        let mut at = 0;
        while at < block.len() {
            let rest = block.get(at..).unwrap_or_default();
            let len = self.entry_len(le16(rest, 4));
            let number = le32(rest, 0);
            let name_len = match self.store.sb.incompat & incompat::FILE_TYPE {
                0 => usize::from(le16(rest, 6)),
                _ => usize::from(byte(rest, 6)),
            };
            let needed = (HEAD + name_len).next_multiple_of(4);
            let name = rest.get(HEAD..HEAD + name_len);
            let fits = len >= SHORTEST && len <= rest.len() && len.is_multiple_of(4);
            let Some(name) = name.filter(|_| fits && (needed <= len || number == 0)) else {
                return Err(Fault::damaged(format!(
                    "an entry of {len} bytes for a name of {name_len} at {}",
                    base.saturating_add(at as u64)
                )));
            };
            if at >= skip && number != 0 {
                if self.page.entries.len() >= self.most {
                    self.page.next = Some(Cursor(base.saturating_add(at as u64)));
                    return Ok(());
                }
                self.entry(number, name, byte(rest, 7))?;
            }
            at += len;
        }
        Ok(())
    }

    fn entry(&mut self, number: u32, name: &[u8], kind: u8) -> Result<()> {
        if name == b"." || name == b".." {
            return Ok(());
        }
        if number > self.store.sb.inodes {
            return Err(Fault::damaged(format!("an entry for inode {number}")));
        }
        if name.is_empty() || name.iter().any(|b| matches!(b, 0 | b'/')) {
            let name = String::from_utf8_lossy(name);
            return Err(Fault::damaged(format!("a name that is none: {name:?}")));
        }
        if self.store.recent.renames(self.dir.number, name) {
            return Ok(());
        }
        let typed = self.store.sb.incompat & incompat::FILE_TYPE != 0;
        self.page.entries.push(Entry {
            name: name.to_vec(),
            node: NodeId(number.into()),
            file_type: typed.then(|| file_type(kind)).flatten(),
        });
        Ok(())
    }

    /// The length of an entry: in blocks of 64 KiB its upper bits stand in the lowest.
    fn entry_len(&self, raw: u16) -> usize {
        let (size, raw) = (self.store.sb.block_size, usize::from(raw));
        match size >= 1 << 16 {
            true if raw == 0 || raw == 0xffff => size,
            true => raw & 0xfffc | (raw & 3) << 16,
            false => raw,
        }
    }

    /// Checks the checksum in the last entry of a block. The nodes of hash trees have another
    /// one, and nothing in them is shown.
    fn verify(&self, block: &[u8], logical: u64) -> Result<()> {
        let node = le32(block, 0) == 0 && self.entry_len(le16(block, 4)) == block.len();
        let root = logical == 0 && self.dir.has(flag::INDEXED);
        if !self.store.sb.metadata_csum() || node || root {
            return Ok(());
        }
        let (covered, tail) = block
            .split_at_checked(block.len().saturating_sub(SHORTEST))
            .unwrap_or_default();
        let marked = le32(tail, 0) == 0 && le16(tail, 4) == 12 && le16(tail, 6) == 0xde00;
        if marked && crc::crc32c(self.dir.seed, covered) == le32(tail, 8) {
            return Ok(());
        }
        Err(Fault::damaged(format!(
            "the checksum of block {logical} is wrong"
        )))
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
