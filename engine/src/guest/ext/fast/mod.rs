//! Fast commits ("Fast commits" of jbd2): between two transactions ext4 may log what changed in
//! names, inodes and ranges rather than whole blocks. They are kept beside the volume, by inode.

mod records;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use records::{ADD_RANGE, CREATE, DEL_RANGE, INODE, LINK, Record, UNLINK};

use super::fields::{le16, le32, wide};
use super::inode::{BODY, flag};
use super::journal::{Log, bounded};
use super::run::Run;
use super::store::Store;
use crate::guest::{Fault, FileType, Result};

/// Cursors from here on stand for names of fast commits.
pub(super) const MORE: u64 = 1 << 63;

/// A longer extent was allocated and not written.
const LONGEST: u16 = 32768;
/// The header of a tree without extents, with room for four.
const EMPTY_TREE: [u8; 12] = [0x0a, 0xf3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];

/// A name: the inode and type that it leads to, or nothing any more.
type Link = Option<(u32, Option<FileType>)>;

/// What fast commits put over the volume.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// How many there were.
    pub(super) commits: usize,
    inodes: HashMap<u32, Vec<u8>>,
    names: HashMap<u32, BTreeMap<Vec<u8>, Link>>,
    /// Directories that are new: what their blocks hold is something else's.
    fresh: HashSet<u32>,
    /// By inode and first block: length, and place where there is one.
    ranges: HashMap<u32, BTreeMap<u64, Run>>,
}

impl Recent {
    /// Reads the fast commits behind the transaction before `sequence`; one that is not complete
    /// was never acknowledged and ends them. `store` has the journal replayed.
    ///
    /// # Errors
    /// `Damaged` where a complete one makes no sense, `Unsupported` for features of theirs.
    pub(super) fn read(
        log: &Log<'_>,
        area: Range<u32>,
        sequence: u32,
        store: &Store,
    ) -> Result<Self> {
        bounded(&area)?;
        let (records, commits) = records::complete(log, area, sequence, store)?;
        let mut recent = Self {
            commits,
            ..Self::default()
        };
        for record in records {
            recent.apply(store, &record)?;
        }
        Ok(recent)
    }

    fn apply(&mut self, store: &Store, record: &Record) -> Result<()> {
        let value = record.value.as_slice();
        let word = |n: usize| le32(value, n * 4);
        match record.tag {
            ADD_RANGE => {
                let (len, written) = match le16(value, 8) {
                    len @ ..=LONGEST => (u64::from(len), true),
                    len => (u64::from(len - LONGEST), false),
                };
                let at = wide(le16(value, 10).into(), word(3));
                store.within(at, len)?;
                let at = written.then_some(at);
                self.put_range(word(0), word(1).into(), Run { at, len });
            }
            DEL_RANGE => {
                let len = u64::from(word(2));
                self.put_range(word(0), word(1).into(), Run { at: None, len });
            }
            CREATE | LINK | UNLINK => {
                let (parent, number) = (word(0), word(1));
                let name = value.get(8..).unwrap_or_default();
                if name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
                    return Err(Fault::damaged("a fast commit has a name that is none"));
                }
                let link = match record.tag {
                    UNLINK => None,
                    _ => Some((number, self.type_of(store, number)?)),
                };
                if record.tag == CREATE && matches!(link, Some((_, Some(FileType::Directory)))) {
                    self.fresh.insert(number);
                    self.names.remove(&number);
                }
                let names = self.names.entry(parent).or_default();
                names.insert(name.to_vec(), link);
            }
            INODE => self.put_inode(store, word(0), value.get(4..).unwrap_or_default())?,
            _ => {}
        }
        Ok(())
    }

    fn type_of(&self, store: &Store, number: u32) -> Result<Option<FileType>> {
        let raw = match self.inodes.get(&number) {
            Some(raw) => raw.clone(),
            None => store.raw_inode(number)?,
        };
        let inode = super::inode::Inode::parse(&store.sb, number, raw, false)?;
        Ok(Some(inode.file_type()))
    }

    /// An inode as a fast commit has it, but for the way to its content: that follows in ranges,
    /// unless it is the content itself.
    fn put_inode(&mut self, store: &Store, number: u32, new: &[u8]) -> Result<()> {
        let mut raw = match self.inodes.remove(&number) {
            Some(raw) => raw,
            None => store.raw_inode(number)?,
        };
        let old = raw.get(BODY).unwrap_or_default().to_vec();
        let Some(front) = raw.get_mut(..new.len()) else {
            return Err(Fault::damaged(
                "a fast commit has an inode that is too long",
            ));
        };
        front.copy_from_slice(new);
        if le32(&raw, 0x20) & flag::EXTENTS != 0 {
            let has_tree = old.starts_with(&[0x0a, 0xf3]);
            if let Some(body) = raw.get_mut(BODY) {
                body.copy_from_slice(&old);
                if let Some(head) = body.get_mut(..EMPTY_TREE.len()).filter(|_| !has_tree) {
                    head.copy_from_slice(&EMPTY_TREE);
                }
            }
        }
        self.inodes.insert(number, raw);
        Ok(())
    }

    /// Puts a range over those that were there.
    fn put_range(&mut self, number: u32, start: u64, run: Run) {
        let ranges = self.ranges.entry(number).or_default();
        let end = start + run.len;
        let before = ranges
            .range(..start)
            .next_back()
            .map(|(at, run)| (*at, *run));
        let inner: Vec<u64> = ranges.range(start..end).map(|(at, _)| *at).collect();
        let removed = inner
            .iter()
            .filter_map(|at| Some((*at, ranges.remove(at)?)));
        let overlapping: Vec<_> = before.into_iter().chain(removed).collect();
        for (at, old) in overlapping {
            let old_end = at + old.len;
            if at < start {
                let len = old.len.min(start - at);
                ranges.insert(at, Run { at: old.at, len });
            }
            if old_end > end {
                let skip = end - at;
                let rest = Run {
                    at: old.at.map(|place| place + skip),
                    len: old_end - end,
                };
                ranges.insert(end, rest);
            }
        }
        if run.len > 0 {
            ranges.insert(start, run);
        }
    }

    /// An inode that a fast commit has.
    pub(super) fn inode(&self, number: u32) -> Option<&[u8]> {
        self.inodes.get(&number).map(Vec::as_slice)
    }

    /// The blocks of a file from `logical` on where a fast commit has them; else for how many
    /// blocks it does not. `None`: for none of the file.
    pub(super) fn range(&self, number: u32, logical: u64) -> Option<Result<Run, u64>> {
        let ranges = self.ranges.get(&number)?;
        let here = ranges.range(..=logical).next_back();
        if let Some((start, run)) = here.filter(|(start, run)| *start + run.len > logical) {
            let skip = logical - start;
            return Some(Ok(Run {
                at: run.at.map(|at| at + skip),
                len: run.len - skip,
            }));
        }
        let next = ranges.range(logical..).next();
        Some(Err(next.map_or(u64::MAX, |(start, _)| start - logical)))
    }

    /// Whether a directory was made by a fast commit.
    pub(super) fn is_fresh(&self, number: u32) -> bool {
        self.fresh.contains(&number)
    }

    /// Whether fast commits say something else of a name.
    pub(super) fn renames(&self, dir: u32, name: &[u8]) -> bool {
        self.names
            .get(&dir)
            .is_some_and(|names| names.contains_key(name))
    }

    /// All names of a directory that fast commits say something of, in a fixed order.
    pub(super) fn names(&self, dir: u32) -> impl Iterator<Item = (&Vec<u8>, &Link)> {
        self.names.get(&dir).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ranges_stand_over_earlier_ones() {
        const BLOCKS: usize = 64;
        let mut recent = Recent::default();
        let mut model: Vec<Option<Option<u64>>> = vec![None; BLOCKS];
        let mut state = 7u64;
        let mut pick = |most: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % most
        };
        for round in 0..400 {
            let start = pick(BLOCKS);
            let len = pick(BLOCKS - start + 1).min(9);
            let at = (pick(3) > 0).then_some(1000 * round);
            let (from, count) = (start as u64, len as u64);
            recent.put_range(5, from, Run { at, len: count });
            for (n, block) in model[start..start + len].iter_mut().enumerate() {
                *block = Some(at.map(|at| at + n as u64));
            }
            for logical in 0..BLOCKS {
                let here = match recent.range(5, logical as u64).unwrap() {
                    Ok(run) => (0..run.len)
                        .map(|n| Some(run.at.map(|at| at + n)))
                        .collect(),
                    Err(len) => vec![None; usize::try_from(len).unwrap().min(BLOCKS - logical)],
                };
                assert!(!here.is_empty());
                assert_eq!(
                    here,
                    model[logical..logical + here.len()],
                    "{round} {logical}"
                );
            }
        }
        assert!(recent.range(6, 0).is_none());
    }
}
