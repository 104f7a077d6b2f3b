//! The label that makes a disk or partition a physical volume.

use super::{Id, SECTOR, checksum};
use crate::error::{Error, ErrorKind, Result};
use crate::little::{array, u32_at, u64_at};

const BYTES: usize = 512;
/// Where the checksummed part begins.
const CHECKED: usize = 20;

/// A run of bytes on the physical volume; a size of 0 in a data area means "to the end".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
}

/// What a label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The physical volume.
    pub id: Id,
    /// Bytes of the device, as it was when the label was written.
    pub device_size: u64,
    /// Where the metadata areas lie. Empty on volumes that leave it to others.
    pub metadata: Vec<Area>,
}

impl Label {
    /// Sectors in which a label may stand, from 0.
    pub const SECTORS: u64 = 4;

    /// Reads the 512 bytes of sector `number`.
    ///
    /// # Errors
    /// `NotThisFormat` where there is no label, `Malformed` for a wrong checksum or sector.
    pub fn parse(sector: &[u8], number: u64) -> Result<Self> {
        let sector = sector.get(..BYTES).unwrap_or(sector);
        if !sector.starts_with(b"LABELONE") || sector.get(24..32) != Some(b"LVM2 001".as_slice()) {
            return Err(Error::new(ErrorKind::NotThisFormat, "there is no label"));
        }
        let bad = |what: &str| {
            Error::new(
                ErrorKind::Malformed,
                format!("the label of the physical volume {what}"),
            )
        };
        if u64_at(sector, 8) != Some(number) {
            return Err(bad("belongs to another sector"));
        }
        let checked = sector.get(CHECKED..).unwrap_or_default();
        if sector.len() != BYTES || u32_at(sector, 16) != Some(checksum(checked)) {
            return Err(bad("has a wrong checksum"));
        }
        let cut = || bad("is cut");
        let at = u32_at(sector, 20).and_then(|at| usize::try_from(at).ok());
        let header = at.and_then(|at| sector.get(at..)).ok_or_else(cut)?;
        let id = array(header, 0).and_then(Id::from_bytes);
        let id = id.ok_or_else(|| bad("has no valid identifier"))?;
        let device_size = u64_at(header, 32).ok_or_else(cut)?;
        let mut at = 40;
        // Data areas, an empty one, metadata areas, an empty one.
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            loop {
                let (Some(start), Some(len)) = (u64_at(header, at), u64_at(header, at + 8)) else {
                    return Err(cut());
                };
                at += 16;
                if start == 0 {
                    break;
                }
                list.push(Area { at: start, len });
            }
        }
        let [_, metadata] = lists;
        Ok(Self {
            id,
            device_size,
            metadata,
        })
    }

    /// The byte at which sector `number` begins.
    pub const fn sector_at(number: u64) -> u64 {
        number.saturating_mul(SECTOR)
    }
}
