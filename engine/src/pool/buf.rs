//! The buffer that travels through the data path.

use std::fmt;

use bytes::BytesMut;

use super::shelf::Home;

/// The alignment of every buffer's start, and what its memory is a multiple of.
pub const ALIGN: usize = 4096;

/// An owned, initialised run of bytes that starts on a 4 KiB boundary.
///
/// Lent by a pool (dropping it gives the slot back, from any thread) or standing alone
/// ([`IoBuf::heap`]). What a lent buffer holds at first is unspecified: bytes of an earlier use.
pub struct IoBuf {
    /// Starts aligned; a multiple of [`ALIGN`] long, and `len` at least.
    mem: BytesMut,
    len: usize,
    home: Option<Home>,
}

impl IoBuf {
    /// A zeroed buffer of its own, bound to no pool.
    pub fn heap(len: usize) -> Self {
        Self::from_aligned(aligned(len.next_multiple_of(ALIGN).max(ALIGN)), len, None)
    }

    /// A buffer of its own with these bytes.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::heap(bytes.len());
        buf.as_mut().copy_from_slice(bytes);
        buf
    }

    pub(super) fn from_aligned(mem: BytesMut, len: usize, home: Option<Home>) -> Self {
        let len = len.min(mem.len());
        Self { mem, len, home }
    }

    pub(super) fn living_at(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Shortens it to `len` bytes; longer is no change.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// All of its memory, what lies behind `len` included: a multiple of [`ALIGN`].
    pub(crate) fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.mem
    }

    /// Bytes of [`whole_mut`](Self::whole_mut).
    pub(crate) fn capacity(&self) -> usize {
        self.mem.len()
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back(std::mem::take(&mut self.mem));
        }
    }
}

impl AsRef<[u8]> for IoBuf {
    fn as_ref(&self) -> &[u8] {
        self.mem.get(..self.len).unwrap_or_default()
    }
}

impl AsMut<[u8]> for IoBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.mem.get_mut(..self.len).unwrap_or_default()
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuf")
            .field("len", &self.len)
            .field("lent", &self.home.is_some())
            .finish_non_exhaustive()
    }
}

/// Zeroed memory of `len` bytes that starts aligned: allocated longer, cut at the boundary.
fn aligned(len: usize) -> BytesMut {
    let mut mem = BytesMut::zeroed(len + ALIGN);
    let skip = mem.as_ptr().align_offset(ALIGN).min(ALIGN);
    let mut mem = mem.split_off(skip);
    mem.truncate(len);
    mem
}
