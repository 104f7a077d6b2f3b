//! The GPT: a header with a checksum at sector 1 and at the last sector, and an array of entries.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::little::{array, u16_at, u32_at, u64_at};

/// The longest array that is read, in bytes: usual ones have 16 KiB.
pub const MAX_ENTRIES_BYTES: usize = 1 << 20;
/// The first bytes of a header.
pub const MAGIC: &[u8; 8] = b"EFI PART";
/// The least bytes of a header, and of an entry.
const HEADER: usize = 92;
const ENTRY: usize = 128;

/// An identifier as the table stores it; printed as the tools print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From the bytes on disk: the first three fields are little-endian.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        let first = u32::from_le_bytes([a, b, c, d]);
        let (second, third) = (u16::from_le_bytes([e, g]), u16::from_le_bytes([h, i]));
        write!(f, "{first:08X}-{second:04X}-{third:04X}-")?;
        for (n, byte) in rest.iter().enumerate() {
            if n == 2 {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

/// A header whose own checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptHeader {
    /// The disk's identifier.
    pub disk: Guid,
    /// Where the other header stands, in sectors.
    pub alternate: u64,
    /// The first sector that a partition may use.
    pub first_usable: u64,
    /// The last one.
    pub last_usable: u64,
    /// Where the array of entries begins, in sectors.
    pub entries_at: u64,
    entries: u32,
    entry_size: usize,
    entries_crc: u32,
}

/// One used entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptEntry {
    /// The partition's number, from 1.
    pub number: u32,
    /// What it is for.
    pub kind: Guid,
    /// Its own identifier.
    pub id: Guid,
    /// The first sector.
    pub first: u64,
    /// The last sector; smaller than `first` where the entry is broken.
    pub last: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Its name, readable.
    pub name: String,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, what)
}

impl GptHeader {
    /// Reads the header in `sector`, one whole sector that was read at `lba`.
    ///
    /// # Errors
    /// `NotThisFormat` without the magic; `Malformed` for a wrong checksum, a header that belongs
    /// elsewhere, or values that make no sense; `TooLarge` for an array beyond
    /// [`MAX_ENTRIES_BYTES`].
    pub fn parse(sector: &[u8], lba: u64) -> Result<Self> {
        if !sector.starts_with(MAGIC) {
            return Err(Error::new(ErrorKind::NotThisFormat, "there is no header"));
        }
        let short = || Error::new(ErrorKind::Truncated, "the header is cut");
        let word = |at| u32_at(sector, at).ok_or_else(short);
        let long = |at| u64_at(sector, at).ok_or_else(short);
        let len = usize::try_from(word(12)?).unwrap_or(usize::MAX);
        let header = sector.get(..len).filter(|h| h.len() >= HEADER);
        let header = header.ok_or_else(|| bad(format!("a header of {len} bytes")))?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(header.get(..16).unwrap_or_default());
        crc.update(&[0; 4]);
        crc.update(header.get(20..).unwrap_or_default());
        if crc.finalize() != word(16)? {
            return Err(bad("the header's checksum is wrong"));
        }
        let here = long(24)?;
        if here != lba {
            return Err(bad(format!(
                "the header says that it stands at sector {here}, not {lba}"
            )));
        }
        let (entries, entry_size) = (word(80)?, word(84)?);
        let size = usize::try_from(entry_size).unwrap_or(usize::MAX);
        if size < ENTRY || !size.is_power_of_two() {
            return Err(bad(format!("entries of {entry_size} bytes")));
        }
        let total = usize::try_from(entries)
            .ok()
            .and_then(|n| n.checked_mul(size));
        if total.is_none_or(|bytes| bytes > MAX_ENTRIES_BYTES) {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{entries} entries of {entry_size} bytes"),
            ));
        }
        Ok(Self {
            disk: Guid(array(sector, 56).ok_or_else(short)?),
            alternate: long(32)?,
            first_usable: long(40)?,
            last_usable: long(48)?,
            entries_at: long(72)?,
            entries,
            entry_size: size,
            entries_crc: word(88)?,
        })
    }

    /// Bytes of the array, [`MAX_ENTRIES_BYTES`] at most.
    pub fn entries_len(&self) -> usize {
        usize::try_from(self.entries)
            .unwrap_or(0)
            .saturating_mul(self.entry_size)
    }

    /// Reads the array, [`entries_len`](Self::entries_len) bytes; unused entries are left out.
    ///
    /// # Errors
    /// `Truncated` for another length, `Malformed` where its checksum is wrong.
    pub fn entries(&self, table: &[u8]) -> Result<Vec<GptEntry>> {
        if table.len() != self.entries_len() {
            return Err(Error::new(ErrorKind::Truncated, "the entries are cut"));
        }
        if crc32fast::hash(table) != self.entries_crc {
            return Err(bad("the checksum of the entries is wrong"));
        }
        let entries = table.chunks_exact(self.entry_size);
        Ok((1..).zip(entries).filter_map(entry).collect())
    }
}

fn entry((number, bytes): (u32, &[u8])) -> Option<GptEntry> {
    let kind: [u8; 16] = array(bytes, 0)?;
    if kind == [0; 16] {
        return None;
    }
    let units = (56..ENTRY).step_by(2).map_while(|at| u16_at(bytes, at));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Some(GptEntry {
        number,
        kind: Guid(kind),
        id: Guid(array(bytes, 16)?),
        first: u64_at(bytes, 32)?,
        last: u64_at(bytes, 40)?,
        attributes: u64_at(bytes, 48)?,
        name: String::from_utf16_lossy(&units),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One partition, 4 entries of 128 bytes, header at `lba`.
    fn made(lba: u64) -> (Vec<u8>, Vec<u8>) {
        let mut table = vec![0; 4 * ENTRY];
        table[128..144].copy_from_slice(&[7; 16]);
        table[160..168].copy_from_slice(&40u64.to_le_bytes());
        table[168..176].copy_from_slice(&99u64.to_le_bytes());
        for (n, unit) in "rööt".encode_utf16().enumerate() {
            table[184 + n * 2..186 + n * 2].copy_from_slice(&unit.to_le_bytes());
        }
        let mut sector = vec![0; 512];
        sector[..8].copy_from_slice(MAGIC);
        sector[12..16].copy_from_slice(&92u32.to_le_bytes());
        sector[24..32].copy_from_slice(&lba.to_le_bytes());
        sector[72..80].copy_from_slice(&2u64.to_le_bytes());
        sector[80..84].copy_from_slice(&4u32.to_le_bytes());
        sector[84..88].copy_from_slice(&128u32.to_le_bytes());
        sector[88..92].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
        let crc = crc32fast::hash(&sector[..92]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        (sector, table)
    }

    #[test]
    fn a_sound_table_is_read_and_each_broken_part_is_refused() {
        let (sector, table) = made(1);
        let header = GptHeader::parse(&sector, 1).unwrap();
        let entries = header.entries(&table).unwrap();
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.number, entry.first, entry.last), (2, 40, 99));
        assert_eq!(entry.name, "rööt");

        assert!(GptHeader::parse(&sector, 2).is_err());
        for at in 0..92 {
            let mut flipped = sector.clone();
            flipped[at] ^= 1;
            assert!(GptHeader::parse(&flipped, 1).is_err(), "byte {at}");
        }
        for at in 0..table.len() {
            let mut flipped = table.clone();
            flipped[at] ^= 0x80;
            assert!(header.entries(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_array_that_is_merely_claimed_is_not_believed() {
        let (mut sector, _) = made(1);
        sector[80..84].copy_from_slice(&u32::MAX.to_le_bytes());
        sector[16..20].fill(0);
        let crc = crc32fast::hash(&sector[..92]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        let refused = GptHeader::parse(&sector, 1).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooLarge);
    }

    #[test]
    fn an_identifier_is_printed_as_the_tools_print_it() {
        let linux = [
            0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47,
            0x7d, 0xe4,
        ];
        let text = Guid::from_bytes(linux).to_string();
        assert_eq!(text, "0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    }
}
