//! A RAM disk: the smallest whole [`Export`], for examples and tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::NbdError;
use crate::export::{
    Done, Export, ExportInfo, Exports, Listed, Peer, Refused, StatusExtent, ZeroFlags,
};
use crate::wire::{STATE_HOLE, STATE_ZERO};

/// What is allocated at once.
const PAGE: u64 = 64 << 10;

/// A thin disk in memory; what was never written takes no space and is reported as a hole.
#[derive(Debug)]
pub struct MemExport {
    info: ExportInfo,
    pages: RefCell<BTreeMap<u64, Box<[u8]>>>,
}

impl MemExport {
    /// An empty writable disk.
    pub fn new(size: u64) -> Self {
        Self::with_info(ExportInfo::writable(size))
    }

    /// An empty disk that tells this about itself.
    pub const fn with_info(info: ExportInfo) -> Self {
        Self {
            info,
            pages: RefCell::new(BTreeMap::new()),
        }
    }

    /// Splits `at .. at + len` at page boundaries: page, offset inside, length.
    fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
        let end = at.saturating_add(len);
        let mut at = at;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (page, inside) = (at / PAGE, at % PAGE);
            let len = (PAGE - inside).min(end - at);
            at += len;
            Some((
                page,
                usize::try_from(inside).ok()?,
                usize::try_from(len).ok()?,
            ))
        })
    }

    fn allocated(&self, page: u64) -> bool {
        self.pages.borrow().contains_key(&page)
    }
}

impl Export for MemExport {
    type Buf = Vec<u8>;

    fn info(&self) -> &ExportInfo {
        &self.info
    }

    async fn read(&self, at: u64, mut buf: Vec<u8>) -> Done<Vec<u8>> {
        let pages = self.pages.borrow();
        let mut rest = buf.as_mut_slice();
        for (page, inside, len) in Self::pieces(at, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(len.min(rest.len()));
            match pages
                .get(&page)
                .and_then(|bytes| bytes.get(inside..inside + now.len()))
            {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            rest = later;
        }
        drop(pages);
        Done {
            result: Ok(()),
            buf,
        }
    }

    async fn write(&self, at: u64, buf: Vec<u8>) -> Done<Vec<u8>> {
        let mut pages = self.pages.borrow_mut();
        let mut rest = buf.as_slice();
        for (page, inside, len) in Self::pieces(at, rest.len() as u64) {
            let (now, later) = rest.split_at(len.min(rest.len()));
            let bytes = pages
                .entry(page)
                .or_insert_with(|| vec![0; 64 << 10].into());
            if let Some(bytes) = bytes.get_mut(inside..inside + now.len()) {
                bytes.copy_from_slice(now);
            }
            rest = later;
        }
        drop(pages);
        Done {
            result: Ok(()),
            buf,
        }
    }

    async fn write_zeroes(&self, at: u64, len: u64, _flags: ZeroFlags) -> Result<(), NbdError> {
        let mut pages = self.pages.borrow_mut();
        let end = at.saturating_add(len);
        let first_whole = at.div_ceil(PAGE);
        let last_whole = end / PAGE;
        for edge in [at / PAGE, end / PAGE] {
            let from = at.max(edge * PAGE) - edge * PAGE;
            let to = end.min((edge + 1) * PAGE).saturating_sub(edge * PAGE);
            if let (Some(bytes), Ok(from), Ok(to)) = (
                pages.get_mut(&edge),
                usize::try_from(from),
                usize::try_from(to),
            ) && let Some(bytes) = bytes.get_mut(from..to)
            {
                bytes.fill(0);
            }
        }
        if first_whole < last_whole {
            // Ranges may be the whole disk: visit what is there, not what could be.
            let mut tail = pages.split_off(&first_whole);
            pages.append(&mut tail.split_off(&last_whole));
        }
        Ok(())
    }

    async fn trim(&self, at: u64, len: u64) -> Result<(), NbdError> {
        self.write_zeroes(at, len, ZeroFlags::default()).await
    }

    async fn flush(&self) -> Result<(), NbdError> {
        Ok(())
    }

    async fn block_status(
        &self,
        _context: usize,
        at: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        let mut extents: Vec<StatusExtent> = Vec::new();
        let (mut at, end) = (at, at.saturating_add(len));
        while at < end {
            let allocated = self.allocated(at / PAGE);
            let stop = if allocated {
                (at / PAGE + 1) * PAGE
            } else {
                let pages = self.pages.borrow();
                pages
                    .range(at / PAGE..)
                    .next()
                    .map_or(end, |(page, _)| page * PAGE)
            };
            let len = stop.min(end) - at;
            let flags = if allocated {
                0
            } else {
                STATE_HOLE | STATE_ZERO
            };
            at += len;
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.len += len,
                _ => extents.push(StatusExtent { len, flags }),
            }
            if extents.len() > max_extents {
                extents.pop();
                break;
            }
        }
        Ok(extents)
    }
}

/// One export under one name, and as the default.
#[derive(Debug)]
pub struct Single<X> {
    name: String,
    export: Rc<X>,
}

impl<X: Export> Single<X> {
    /// Gives `export` to everybody who asks for `name` or for no name.
    pub fn new(name: &str, export: X) -> Self {
        Self {
            name: name.to_owned(),
            export: Rc::new(export),
        }
    }

    fn find(&self, name: &str) -> Result<&Rc<X>, Refused> {
        let known = name.is_empty() || name == self.name;
        known.then_some(&self.export).ok_or(Refused::Unknown)
    }
}

impl<X: Export> Exports for Single<X> {
    type Export = X;

    async fn info(&self, name: &str, _peer: &Peer) -> Result<ExportInfo, Refused> {
        self.find(name).map(|export| export.info().clone())
    }

    async fn open(&self, name: &str, _peer: &Peer) -> Result<Rc<X>, Refused> {
        self.find(name).cloned()
    }

    fn list(&self, _peer: &Peer) -> Option<Vec<Listed>> {
        let description = self.export.info().description.clone().unwrap_or_default();
        Some(vec![Listed {
            name: self.name.clone(),
            description,
        }])
    }
}
