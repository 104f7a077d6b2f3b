//! What the writer knows of every guest cluster, in memory: one table for each L2 table.
//!
//! A table is *uniform* (all unallocated or all zero: no memory) or *dense* (8 bytes for each
//! cluster). So memory counts touched tables, and making the whole disk zero costs one step for
//! each table, dense ones too: their entries then lie dormant beneath the uniform state and only
//! keep the host clusters that they had. Tables come in *pages*, which are there once one of their
//! tables differs from the others: a disk may claim four million tables.
//!
//! Invariant: a cluster keeps its host cluster for ever once it has one. Whether the guest sees it
//! is the state's affair alone, so no host cluster is ever owned twice and there is no free list.

use crate::error::{Error, ErrorKind, Result};
use crate::range::ClusterSize;

/// What the guest sees in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing here: zero in a full, the parent's bytes in an overlay.
    Unallocated,
    /// Reads as zero, whatever the parent holds.
    Zero,
    /// The bytes of its host cluster.
    Data,
}

/// One cluster: its state, and the host cluster that it owns (0: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: State,
    pub(super) host: u64,
}

impl Word {
    const fn pack(self) -> u64 {
        self.host << 2
            | match self.state {
                State::Unallocated => 0,
                State::Zero => 1,
                State::Data => 2,
            }
    }

    const fn unpack(word: u64) -> Self {
        let state = match word & 3 {
            2 => State::Data,
            1 => State::Zero,
            _ => State::Unallocated,
        };
        Self {
            state,
            host: word >> 2,
        }
    }
}

/// How many clusters are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) data: u64,
    pub(super) zero: u64,
    /// Clusters that own a host cluster, seen or not.
    pub(super) hosts: u64,
}

impl Tally {
    fn add(&mut self, w: Word) {
        self.hosts += u64::from(w.host != 0);
        match w.state {
            State::Data => self.data += 1,
            State::Zero => self.zero += 1,
            State::Unallocated => {}
        }
    }

    fn sub(&mut self, w: Word) {
        self.hosts -= u64::from(w.host != 0);
        match w.state {
            State::Data => self.data -= 1,
            State::Zero => self.zero -= 1,
            State::Unallocated => {}
        }
    }
}

#[derive(Debug)]
struct Table {
    /// `Some`: all clusters are in this state, and `words` only tells who owns which host.
    uniform: Option<State>,
    words: Option<Box<[u64]>>,
    tally: Tally,
}

/// Tables of one page.
const PAGE: usize = 512;

#[derive(Debug)]
enum Page {
    /// All clusters are in this state (never `Data`), and none owns a host cluster.
    Uniform(State),
    /// All its tables.
    Tables(Box<[Table]>),
}

/// All tables of one disk.
#[derive(Debug)]
pub(super) struct Slots {
    clusters: u64,
    per_table: u64,
    tables: usize,
    pages: Vec<Page>,
    tally: Tally,
}

fn lost() -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        "a cluster behind the end of the disk",
    )
}

impl Slots {
    /// All unallocated.
    pub(super) fn new(clusters: u64, cluster: ClusterSize) -> Result<Self> {
        let per_table = cluster.bytes() / 8;
        let count = usize::try_from(clusters.div_ceil(per_table))
            .map_err(|_| Error::new(ErrorKind::TooLarge, "more L2 tables than memory addresses"))?;
        let mut pages = Vec::new();
        pages.resize_with(count.div_ceil(PAGE), || Page::Uniform(State::Unallocated));
        Ok(Self {
            clusters,
            per_table,
            tables: count,
            pages,
            tally: Tally::default(),
        })
    }

    pub(super) const fn clusters(&self) -> u64 {
        self.clusters
    }

    pub(super) const fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) const fn table_count(&self) -> usize {
        self.tables
    }

    /// Bytes that the tables take.
    pub(super) fn memory(&self) -> u64 {
        let tables = self.there().count() * size_of::<Table>();
        let dense = self.there().filter(|t| t.words.is_some()).count();
        let fixed = self.pages.len() * size_of::<Page>() + tables;
        (dense as u64) * self.per_table * 8 + fixed as u64
    }

    /// The tables of all pages that are there.
    fn there(&self) -> impl Iterator<Item = &Table> {
        self.pages.iter().flat_map(|page| match page {
            Page::Uniform(_) => &[][..],
            Page::Tables(tables) => tables,
        })
    }

    /// A table's uniform state, and the table where it is there; `None` behind the end.
    fn look(&self, table: usize) -> Option<(Option<State>, Option<&Table>)> {
        if table >= self.tables {
            return None;
        }
        match self.pages.get(table / PAGE)? {
            Page::Uniform(state) => Some((Some(*state), None)),
            Page::Tables(tables) => {
                let table = tables.get(table % PAGE)?;
                Some((table.uniform, Some(table)))
            }
        }
    }

    /// A table to be changed: makes its page.
    fn table(&mut self, table: usize) -> Result<&mut Table> {
        let (clusters, per_table) = (self.clusters, self.per_table);
        let first = table - table % PAGE;
        let count = self.tables.saturating_sub(first).min(PAGE);
        let page = self.pages.get_mut(table / PAGE).ok_or_else(lost)?;
        if let Page::Uniform(state) = *page {
            let fresh = (first as u64..).take(count).map(|index| {
                let len = per_table.min(clusters.saturating_sub(index * per_table));
                Table::uniform(state, len)
            });
            *page = Page::Tables(fresh.collect());
        }
        match page {
            Page::Tables(tables) => tables.get_mut(table % PAGE).ok_or_else(lost),
            Page::Uniform(_) => Err(lost()),
        }
    }

    fn table_len(&self, index: u64) -> u64 {
        self.per_table
            .min(self.clusters.saturating_sub(index * self.per_table))
    }

    fn place(&self, cluster: u64) -> Result<(usize, usize)> {
        let table = usize::try_from(cluster / self.per_table).map_err(|_| lost())?;
        let entry = usize::try_from(cluster % self.per_table).map_err(|_| lost())?;
        Ok((table, entry))
    }

    /// One cluster; behind the end: unallocated.
    pub(super) fn get(&self, cluster: u64) -> Word {
        let none = Word {
            state: State::Unallocated,
            host: 0,
        };
        let Ok((t, e)) = self.place(cluster) else {
            return none;
        };
        let Some((uniform, table)) = self.look(t).filter(|_| cluster < self.clusters) else {
            return none;
        };
        let word = table.and_then(|t| t.words.as_ref()).and_then(|w| w.get(e));
        let mut word = word.map_or(none, |w| Word::unpack(*w));
        if let Some(state) = uniform {
            word.state = state;
        }
        word
    }

    /// Sets one cluster.
    pub(super) fn set(&mut self, cluster: u64, new: Word) -> Result<()> {
        let (t, e) = self.place(cluster)?;
        let len = self.table_len(t as u64);
        let table = self.table(t)?;
        let slot = table.dense(len)?.get_mut(e).ok_or_else(lost)?;
        let old = Word::unpack(*slot);
        *slot = new.pack();
        table.tally.sub(old);
        table.tally.add(new);
        self.tally.sub(old);
        self.tally.add(new);
        Ok(())
    }

    /// Puts a run of clusters into `state` (never `Data`); host clusters stay owned.
    pub(super) fn fill(&mut self, first: u64, count: u64, state: State) -> Result<()> {
        let end = first.checked_add(count).ok_or_else(lost)?;
        if end > self.clusters {
            return Err(lost());
        }
        let mut at = first;
        while at < end {
            if let Some(n) = self.fill_page(at, end, state) {
                at += n;
                continue;
            }
            let (t, e) = self.place(at)?;
            let start = at - at % self.per_table;
            let len = self.table_len(t as u64);
            let n = (start + len).min(end) - at;
            let table = self.table(t)?;
            let before = table.tally;
            if n == len {
                table.make_uniform(state, len);
            } else if table.uniform != Some(state) {
                table.fill_part(e, n, state, len)?;
            }
            let after = table.tally;
            self.tally.data = self.tally.data - before.data + after.data;
            self.tally.zero = self.tally.zero - before.zero + after.zero;
            at += n;
        }
        Ok(())
    }

    /// Does what of a fill can be done to a page as such, from `at` on; how many clusters that is.
    fn fill_page(&mut self, at: u64, end: u64, state: State) -> Option<u64> {
        let per_page = self.per_table * PAGE as u64;
        let index = at / per_page;
        let stop = ((index + 1) * per_page).min(self.clusters);
        let page = self.pages.get_mut(usize::try_from(index).ok()?)?;
        let all = stop - index * per_page;
        let zero = match page {
            Page::Uniform(old) if *old == state => return Some(stop.min(end) - at),
            // Only a part of it, or what knows places in the file.
            _ if at != index * per_page || end < stop => return None,
            Page::Tables(tables) if tables.iter().any(|t| t.tally.hosts > 0) => return None,
            Page::Tables(tables) => tables.iter().map(|t| t.tally.zero).sum(),
            Page::Uniform(State::Zero) => all,
            Page::Uniform(_) => 0,
        };
        *page = Page::Uniform(state);
        self.tally.zero -= zero;
        if state == State::Zero {
            self.tally.zero += all;
        }
        Some(all)
    }

    /// The run of clusters from `at` on, at most `max`, whose state is the same and whose host
    /// clusters, where they hold data, follow each other.
    pub(super) fn run(&self, at: u64, max: u64) -> (Word, u64) {
        let first = self.get(at);
        let end = at.saturating_add(max).min(self.clusters);
        let mut next = at + 1;
        while next < end {
            let follows = match self.uniform_until(next) {
                Some((state, until)) if state == first.state => {
                    next = until.min(end);
                    continue;
                }
                Some(_) => false,
                None => {
                    let w = self.get(next);
                    w.state == first.state
                        && (w.state != State::Data || w.host == first.host + (next - at))
                }
            };
            if !follows {
                break;
            }
            next += 1;
        }
        (first, next - at)
    }

    fn uniform_until(&self, cluster: u64) -> Option<(State, u64)> {
        let index = cluster / self.per_table;
        let (uniform, table) = self.look(usize::try_from(index).ok()?)?;
        let until = match table {
            Some(_) => (index + 1) * self.per_table,
            None => (index / PAGE as u64 + 1) * PAGE as u64 * self.per_table,
        };
        uniform.map(|s| (s, until))
    }

    /// Whether an L2 table has anything to say at all.
    pub(super) fn speaks(&self, table: usize) -> bool {
        match self.look(table) {
            Some((_, Some(table))) => table.tally.data + table.tally.zero > 0,
            Some((uniform, None)) => uniform == Some(State::Zero),
            None => false,
        }
    }

    /// The clusters of one table, in order; at most as many as the disk has.
    pub(super) fn words(&self, table: usize) -> impl Iterator<Item = Word> + '_ {
        let len = self.table_len(table as u64);
        let (uniform, table) = self.look(table).unwrap_or_default();
        let words = table.and_then(|t| t.words.as_deref());
        (0..len).map(move |i| {
            let word = usize::try_from(i)
                .ok()
                .and_then(|i| words.and_then(|w| w.get(i)));
            let mut word = Word::unpack(word.copied().unwrap_or(0));
            if let Some(state) = uniform {
                word.state = state;
            }
            word
        })
    }

    /// The host clusters that are owned but hold nothing that the guest sees.
    pub(super) fn unseen_hosts(&self) -> impl Iterator<Item = u64> + '_ {
        self.there()
            .filter(|t| t.tally.hosts > t.tally.data)
            .flat_map(|t| {
                let hidden = t.uniform.is_some();
                t.words
                    .iter()
                    .flatten()
                    .map(|w| Word::unpack(*w))
                    .filter(move |w| w.host != 0 && (hidden || w.state != State::Data))
                    .map(|w| w.host)
            })
    }
}

impl Table {
    /// All `len` clusters in this state (never `Data`), without a host cluster.
    fn uniform(state: State, len: u64) -> Self {
        let zero = if state == State::Zero { len } else { 0 };
        Self {
            uniform: Some(state),
            words: None,
            tally: Tally {
                zero,
                ..Tally::default()
            },
        }
    }

    /// The entries, awake: dormant ones take the uniform state first.
    fn dense(&mut self, len: u64) -> Result<&mut [u64]> {
        let uniform = self.uniform.take();
        let len = usize::try_from(len).map_err(|_| lost())?;
        let fresh = self.words.is_none();
        let words = self
            .words
            .get_or_insert_with(|| vec![0; len].into_boxed_slice());
        if let Some(state) = uniform
            && (!fresh || state != State::Unallocated)
        {
            for word in words.iter_mut() {
                let host = Word::unpack(*word).host;
                *word = Word { state, host }.pack();
            }
        }
        Ok(words)
    }

    fn make_uniform(&mut self, state: State, len: u64) {
        self.uniform = Some(state);
        self.tally.data = 0;
        self.tally.zero = if state == State::Zero { len } else { 0 };
        if self.tally.hosts == 0 {
            self.words = None;
        }
    }

    fn fill_part(&mut self, from: usize, n: u64, state: State, len: u64) -> Result<()> {
        let n = usize::try_from(n).map_err(|_| lost())?;
        let mut tally = self.tally;
        let words = self.dense(len)?;
        for word in words.iter_mut().skip(from).take(n) {
            let old = Word::unpack(*word);
            let new = Word { state, ..old };
            tally.sub(old);
            tally.add(new);
            *word = new.pack();
        }
        self.tally = tally;
        // What has become the same everywhere needs no entries any more.
        if tally.hosts == 0 && tally.zero == len {
            self.make_uniform(State::Zero, len);
        } else if tally == Tally::default() {
            self.make_uniform(State::Unallocated, len);
        }
        Ok(())
    }
}
