//! Header extensions: type, length, data padded to eight bytes, until type zero.
//!
//! The area ends at the backing file name, or with the first cluster. Unknown extensions are kept
//! as they are; the backing format and the feature names are read into the header.

use super::{Backing, Header, at, layout};
use crate::qcow2::bytes::{u32_at, u64_at};
use crate::range::HostOffset;
use crate::{ErrorKind, Result};

/// An extension that the header keeps without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub kind: u32,
    /// Its bytes, without the padding.
    pub data: Vec<u8>,
}

/// Where the persistent bitmaps are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// How many bitmaps there are.
    pub bitmaps: u32,
    /// Bytes of the directory.
    pub bytes: u64,
    /// Where it lies.
    pub at: HostOffset,
}

impl Header {
    /// Reads the extensions and the backing file name out of the first cluster.
    pub(super) fn read_extensions(
        &mut self,
        first: &[u8],
        start: usize,
        name_at: u64,
        name_len: u32,
    ) -> Result<()> {
        let first = first.get(..self.cluster.bytes_usize()).unwrap_or(first);
        let mut end = first.len();
        if name_at != 0 {
            let name_at = usize::try_from(name_at).unwrap_or(usize::MAX);
            let name_len = usize::try_from(name_len).unwrap_or(usize::MAX);
            let name = name_at
                .checked_add(name_len)
                .filter(|_| name_len <= layout::MAX_BACKING_NAME)
                .and_then(|name_end| first.get(name_at..name_end));
            let Some(name) = name else {
                return Err(at(
                    ErrorKind::Malformed,
                    8,
                    format!("a backing file name of {name_len} bytes at {name_at} is not possible"),
                ));
            };
            if !name.is_empty() {
                self.backing = Some(Backing {
                    name: String::from_utf8_lossy(name).into_owned(),
                    format: None,
                });
            }
            end = name_at;
        }
        for (place, kind, data) in walk(first.get(..end).unwrap_or(&[]), start) {
            let Some(data) = data else {
                return Err(at(
                    ErrorKind::Malformed,
                    place,
                    format!("header extension {kind:#010x} goes beyond its area"),
                ));
            };
            self.keep(place, kind, data)?;
        }
        Ok(())
    }

    fn keep(&mut self, place: u64, kind: u32, data: &[u8]) -> Result<()> {
        match kind {
            layout::EXT_FEATURE_NAMES => {}
            layout::EXT_BACKING_FORMAT => {
                let format = std::str::from_utf8(data)
                    .ok()
                    .filter(|f| f.len() <= layout::MAX_BACKING_FORMAT);
                let Some(format) = format else {
                    return Err(at(
                        ErrorKind::Malformed,
                        place,
                        "the name of the backing file's format is not readable",
                    ));
                };
                if let Some(backing) = &mut self.backing {
                    backing.format = Some(format.to_owned());
                }
            }
            layout::EXT_ENCRYPTION => {
                return Err(at(
                    ErrorKind::Unsupported,
                    place,
                    "the image is encrypted (it carries an encryption header)",
                ));
            }
            _ => self.extensions.push(Extension {
                kind,
                data: data.to_vec(),
            }),
        }
        Ok(())
    }

    /// The persistent bitmaps, where the image has any that are consistent. Guest data does not
    /// depend on them; only a check counts their clusters.
    pub fn bitmaps(&self) -> Option<BitmapDirectory> {
        if self.version < 3 || self.autoclear & layout::AUTOCLEAR_BITMAPS == 0 {
            return None;
        }
        let found = self
            .extensions
            .iter()
            .find(|e| e.kind == layout::EXT_BITMAPS)?;
        Some(BitmapDirectory {
            bitmaps: u32_at(&found.data, 0)?,
            bytes: u64_at(&found.data, 8)?,
            at: HostOffset::new(u64_at(&found.data, 16)?),
        })
    }
}

/// The extensions from `start`: place, type, and data, `None` where it does not fit. Ends behind
/// the first that does not fit.
fn walk(area: &[u8], start: usize) -> impl Iterator<Item = (u64, u32, Option<&[u8]>)> {
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let at = next.take()?;
        let kind = u32_at(area, at)?;
        let len = usize::try_from(u32_at(area, at.checked_add(4)?)?).ok()?;
        if kind == layout::EXT_END {
            return None;
        }
        let body = at.checked_add(8)?;
        let data = body.checked_add(len).and_then(|end| area.get(body..end));
        if data.is_some() {
            next = len
                .checked_next_multiple_of(8)
                .and_then(|n| body.checked_add(n));
        }
        Some((at as u64, kind, data))
    })
}

/// The image's own name for an incompatible feature bit.
pub(super) fn feature_name(first: &[u8], start: usize, bit: u32) -> Option<String> {
    let (_, _, table) =
        walk(first, start).find(|(_, kind, _)| *kind == layout::EXT_FEATURE_NAMES)?;
    let (entries, _) = table?.as_chunks::<48>();
    entries.iter().find_map(|entry| match entry {
        [0, b, name @ ..] if u32::from(*b) == bit => {
            let name = name.split(|c| *c == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        }
        _ => None,
    })
}
