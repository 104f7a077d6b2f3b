//! A metadata area: a header, and a ring in which the newest text stands somewhere.

use super::{Area, checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::little::{u32_at, u64_at};

const MAGIC: &[u8] = b"\x20LVM2\x20x[5A%r0N*>";
/// The place of the text is not to be used.
const IGNORED: u32 = 1;

/// What the header of a metadata area says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AreaHeader {
    /// Where the text stands; `None` in a new or unused area.
    pub text: Option<TextAt>,
}

/// Where a text stands, and its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextAt {
    /// One or two runs on the physical volume, to be read in order; the second has no byte where
    /// the text does not go round.
    pub parts: [Area; 2],
    /// Its checksum.
    pub crc: u32,
}

impl AreaHeader {
    /// Bytes of a header, at the beginning of its area.
    pub const BYTES: usize = 512;
    /// The longest text that is read, in bytes: thousands of logical volumes.
    pub const MAX_TEXT: u64 = 8 << 20;

    /// Reads the header of the area that the label names.
    ///
    /// # Errors
    /// `Malformed` for a wrong magic, checksum or place; `Unsupported` for another version;
    /// `TooLarge` beyond [`MAX_TEXT`](Self::MAX_TEXT).
    pub fn parse(header: &[u8], area: Area) -> Result<Self> {
        let bad = |what: String| {
            Error::new(
                ErrorKind::Malformed,
                format!("the metadata area at byte {}: {what}", area.at),
            )
        };
        let header = header.get(..Self::BYTES).unwrap_or(header);
        if header.get(4..4 + MAGIC.len()) != Some(MAGIC) {
            return Err(bad("there is no header".to_owned()));
        }
        let checked = header.get(4..).unwrap_or_default();
        if header.len() != Self::BYTES || u32_at(header, 0) != Some(checksum(checked)) {
            return Err(bad("the header's checksum is wrong".to_owned()));
        }
        let cut = || bad("the header is cut".to_owned());
        let version = u32_at(header, 20).ok_or_else(cut)?;
        if version != 1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("metadata areas of version {version}"),
            ));
        }
        let (start, size) = (u64_at(header, 24), u64_at(header, 32));
        if start != Some(area.at) || size.is_none_or(|size| size > area.len) {
            return Err(bad("the header belongs elsewhere".to_owned()));
        }
        let size = size.unwrap_or(0);
        let offset = u64_at(header, 40).ok_or_else(cut)?;
        let len = u64_at(header, 48).ok_or_else(cut)?;
        let crc = u32_at(header, 56).ok_or_else(cut)?;
        let flags = u32_at(header, 60).ok_or_else(cut)?;
        if offset == 0 || flags & IGNORED != 0 {
            return Ok(Self { text: None });
        }
        let first = Self::BYTES as u64;
        let ring = size.saturating_sub(first);
        if offset < first || offset >= size || len == 0 || len > ring {
            return Err(bad(format!("a text of {len} bytes at {offset} of {size}")));
        }
        if len > Self::MAX_TEXT {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a metadata text of {len} bytes"),
            ));
        }
        let here = len.min(size - offset);
        let part = |offset: u64, len: u64| {
            let at = area.at.checked_add(offset);
            let end = at.and_then(|at| at.checked_add(len));
            let at = at.filter(|_| end.is_some());
            at.map(|at| Area { at, len }).ok_or_else(cut)
        };
        Ok(Self {
            text: Some(TextAt {
                parts: [part(offset, here)?, part(first, len - here)?],
                crc,
            }),
        })
    }
}

impl TextAt {
    /// Bytes, [`AreaHeader::MAX_TEXT`] at most.
    pub fn len(&self) -> u64 {
        let [a, b] = self.parts;
        a.len.saturating_add(b.len)
    }

    /// Whether it has no byte; never so in what a header gave.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this is the text that was meant.
    pub fn verify(&self, text: &[u8]) -> bool {
        text.len() as u64 == self.len() && checksum(text) == self.crc
    }
}
