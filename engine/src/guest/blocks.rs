//! The bytes that a reader looks at: a disk, a part of one, or several put together.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::{Fault, Result};
use crate::chain::Chain;

/// A disk, or whatever reads like one. Blocking, from any thread.
pub trait Blocks: Send + Sync + fmt::Debug {
    /// Bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `at`.
    ///
    /// # Errors
    /// `Damaged` where the range does not lie inside: the guest's structures point there.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()>;

    /// Reads `len` bytes at `at`. The caller has bounded `len`.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); nothing is allocated for a range outside.
    fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        inside(self.size(), at, len)?;
        let mut buf = vec![0; len];
        self.read_at(at, &mut buf)?;
        Ok(buf)
    }
}

/// Fails where `len` bytes at `at` do not lie within `size`.
pub(crate) fn inside(size: u64, at: u64, len: usize) -> Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
    match end {
        Some(end) if end <= size => Ok(()),
        _ => Err(Fault::damaged(format!(
            "{len} bytes at {at} lie outside of {size}"
        ))),
    }
}

impl<B: Blocks + ?Sized> Blocks for Arc<B> {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(at, buf)
    }
}

impl Blocks for Chain {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(Self::size(self), at, buf.len())?;
        Ok(self.read_blocking(at, buf)?)
    }
}

/// Bytes in memory: tests, fuzzing, small tables.
impl Blocks for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(self.size(), at, buf.len())?;
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let from = self.get(start..start.saturating_add(buf.len()));
        buf.copy_from_slice(from.unwrap_or_default());
        Ok(())
    }
}

/// A run of another one's bytes: a partition.
#[derive(Debug, Clone)]
pub struct Part {
    of: Arc<dyn Blocks>,
    start: u64,
    len: u64,
}

impl Part {
    /// The `len` bytes at `start`.
    ///
    /// # Errors
    /// `Damaged` where they do not lie inside.
    pub fn new(of: Arc<dyn Blocks>, start: u64, len: u64) -> Result<Self> {
        match start.checked_add(len) {
            Some(end) if end <= of.size() => Ok(Self { of, start, len }),
            _ => Err(Fault::damaged(format!(
                "a part of {len} bytes at {start} goes past the end of {}",
                of.size()
            ))),
        }
    }
}

impl Blocks for Part {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(self.len, at, buf.len())?;
        self.of.read_at(self.start + at, buf)
    }
}

/// Bytes of one page of [`Cached`].
const PAGE: usize = 64 << 10;
/// Longer reads go past the cache: they are file content.
const BYPASS: usize = 256 << 10;

/// Keeps what was read lately: metadata is read in small pieces, again and again.
pub struct Cached {
    of: Arc<dyn Blocks>,
    pages: Mutex<LruCache<u64, Arc<[u8]>>>,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}

impl Cached {
    /// Keeps `bytes` of memory at most, one page of 64 KiB at least.
    pub fn new(of: Arc<dyn Blocks>, bytes: usize) -> Self {
        let pages = NonZeroUsize::new(bytes / PAGE).unwrap_or(NonZeroUsize::MIN);
        Self {
            of,
            pages: Mutex::new(LruCache::new(pages)),
        }
    }

    fn page(&self, number: u64) -> Result<Arc<[u8]>> {
        let pages = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages().get(&number) {
            return Ok(Arc::clone(page));
        }
        let at = number.saturating_mul(PAGE as u64);
        let left = self.of.size().saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(PAGE).min(PAGE);
        let page: Arc<[u8]> = self.of.bytes(at, len)?.into();
        pages().put(number, Arc::clone(&page));
        Ok(page)
    }
}

impl Blocks for Cached {
    fn size(&self) -> u64 {
        self.of.size()
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        inside(self.size(), at, buf.len())?;
        if buf.len() >= BYPASS {
            return self.of.read_at(at, buf);
        }
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let page = self.page(at / PAGE as u64)?;
            let skip = usize::try_from(at % PAGE as u64).unwrap_or(PAGE);
            let from = page.get(skip..).unwrap_or_default();
            let len = from.len().min(rest.len());
            let (Some(from), Some((to, behind))) =
                (from.get(..len), rest.split_at_mut_checked(len))
            else {
                break;
            };
            if len == 0 {
                return Err(Fault::damaged("the disk ended while it was read"));
            }
            to.copy_from_slice(from);
            at += len as u64;
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_reads_its_own_bytes_and_nothing_behind_them() {
        let disk: Arc<dyn Blocks> = Arc::new((0..=255u8).collect::<Vec<u8>>());
        let part = Part::new(Arc::clone(&disk), 100, 50).unwrap();
        assert_eq!(part.bytes(10, 3).unwrap(), [110, 111, 112]);
        assert!(part.bytes(48, 3).is_err());
        assert!(part.bytes(u64::MAX, 3).is_err());
        assert!(Part::new(disk, 250, 7).is_err());
    }

    #[test]
    fn what_is_cached_equals_what_is_there() {
        let disk: Vec<u8> = (0..300_000u32)
            .map(|n| (n * 7 / 3).to_le_bytes()[0])
            .collect();
        let cached = Cached::new(Arc::new(disk.clone()), 3 * PAGE);
        for (at, len) in [
            (0, 10),
            (65_530, 20),
            (60_000, 200_000),
            (299_999, 1),
            (0, 300_000),
        ] {
            assert_eq!(cached.bytes(at as u64, len).unwrap(), &disk[at..at + len]);
        }
        assert!(cached.bytes(299_999, 2).is_err());
    }
}
