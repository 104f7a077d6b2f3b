//! Changed extents that come in pages, as hypervisors answer (about 2000 extents a page).
//!
//! Two data movers lost data by taking the first page for the whole. So the pager owns the loop's
//! condition: it says where to ask next, checks that the answer begins there and advances, and
//! gives the list out only when the pages cover the whole disk, each byte once.

use super::{ChangeList, bad, past_end};
use crate::error::{Error, ErrorKind, Result};
use crate::range::GuestRange;

/// One answer: "of the bytes from `start` on, I looked at `length`; these of them changed".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The offset that the answer begins at: the one asked for, echoed.
    pub start: u64,
    /// How many bytes the answer speaks about, changed or not.
    pub length: u64,
    /// The changed extents `(offset, length)`, ascending, inside of the bytes spoken about.
    pub extents: Vec<(u64, u64)>,
}

/// Collects pages until the disk is covered.
///
/// ```
/// # use sendense_formats::changes::{Page, Pager};
/// # fn ask(at: u64) -> Page { Page { start: at, length: 4096, extents: vec![(at, 512)] } }
/// # fn main() -> sendense_formats::Result<()> {
/// let mut pager = Pager::new(16384);
/// while let Some(at) = pager.next_start() {
///     pager.give(ask(at))?;
/// }
/// let changes = pager.finish()?;
/// # assert_eq!(changes.len(), 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Pager {
    capacity: u64,
    covered: u64,
    max_extents: usize,
    extents: Vec<GuestRange>,
    failed: bool,
}

impl Pager {
    /// For a disk of `capacity` bytes: the size at the moment of the snapshot that is asked about.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            covered: 0,
            max_extents: super::ParseLimits::default().max_extents,
            extents: Vec::new(),
            failed: false,
        }
    }

    /// The same with another limit of extents.
    #[must_use]
    pub fn with_max_extents(mut self, max: usize) -> Self {
        self.max_extents = max;
        self
    }

    /// The offset to ask for next; `None` once the disk is covered. It is never the capacity
    /// itself, which some hypervisors answer with a fault.
    pub fn next_start(&self) -> Option<u64> {
        (self.covered < self.capacity && !self.failed).then_some(self.covered)
    }

    /// The bytes covered so far.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Takes the answer to [`next_start`](Self::next_start). After an error the pager gives nothing
    /// out any more: start again from 0, or make a full backup.
    pub fn give(&mut self, page: Page) -> Result<()> {
        if self.failed {
            return Err(Error::new(
                ErrorKind::WrongState,
                "an earlier page was refused",
            ));
        }
        self.accept(page).inspect_err(|_| self.failed = true)
    }

    /// The changes of the whole disk; refused while a byte of it was not spoken about.
    pub fn finish(self) -> Result<ChangeList> {
        if self.failed || self.covered != self.capacity {
            return Err(bad(format!(
                "the answers cover {} of {} bytes",
                self.covered, self.capacity
            )));
        }
        Ok(ChangeList::from_unsorted(self.extents))
    }

    fn accept(&mut self, page: Page) -> Result<()> {
        if self.covered == self.capacity {
            return Err(bad("a page came after the disk was covered"));
        }
        if page.start != self.covered {
            return Err(bad(format!(
                "asked for changes from byte {}, the answer begins at {}",
                self.covered, page.start
            )));
        }
        if page.length == 0 {
            return Err(bad(format!(
                "the answer at byte {} covers nothing, {} bytes before the disk's end",
                page.start,
                self.capacity - self.covered
            )));
        }
        let end = page
            .start
            .checked_add(page.length)
            .filter(|end| *end <= self.capacity)
            .ok_or_else(|| past_end(page.start.saturating_add(page.length), self.capacity))?;
        if page.extents.len() > self.max_extents.saturating_sub(self.extents.len()) {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("more than {} changed extents", self.max_extents),
            ));
        }
        let mut at = page.start;
        for (offset, length) in page.extents {
            if length == 0 {
                return Err(bad(format!("the extent at byte {offset} has no length")));
            }
            if offset < at {
                return Err(bad(format!(
                    "the extent at byte {offset} lies before byte {at}: overlapping or out of order"
                )));
            }
            let range = GuestRange::new(offset, length)
                .filter(|r| r.end().get() <= end)
                .ok_or_else(|| {
                    bad(format!(
                        "the extent at byte {offset} of {length} bytes leaves its page, \
                         which ends at byte {end}"
                    ))
                })?;
            at = range.end().get();
            self.extents.push(range);
        }
        self.covered = end;
        Ok(())
    }
}
