//! The slot of a file or directory: its facts.

use super::boot::Kind;
use super::fields::{byte, le16, le32};
use crate::guest::{FileType, Stat, Time};

const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// Read-only, hidden, system and volume together: a part of a long name.
const LONG: u8 = 0x0f;

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Nothing, and nothing behind it either.
    End,
    /// Deleted, or one of `.` and `..`.
    Skipped,
    /// A part of a long name.
    Long,
    /// The volume's label.
    Label,
    /// A file or directory.
    Node,
}

impl Use {
    pub(super) fn of(slot: &[u8]) -> Self {
        let attributes = byte(slot, 11);
        let name = slot.get(..11).unwrap_or_default();
        match byte(slot, 0) {
            0 => Self::End,
            0xe5 => Self::Skipped,
            _ if attributes & 0x3f == LONG => Self::Long,
            _ if attributes & VOLUME != 0 => Self::Label,
            _ if matches!(name, b".          " | b"..         ") => Self::Skipped,
            _ => Self::Node,
        }
    }
}

/// The slot of a node, read.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) first: u32,
    pub(super) size: u32,
    pub(super) directory: bool,
    attributes: u8,
    modified: Option<Time>,
    accessed: Option<Time>,
    created: Option<Time>,
}

impl Node {
    pub(super) fn of(slot: &[u8], kind: Kind) -> Self {
        let high = match kind {
            Kind::Fat32 => le16(slot, 20),
            // OS/2 keeps something else there.
            Kind::Fat12 | Kind::Fat16 => 0,
        };
        let attributes = byte(slot, 11);
        Self {
            first: u32::from(high) << 16 | u32::from(le16(slot, 26)),
            size: le32(slot, 28),
            directory: attributes & DIRECTORY != 0,
            attributes,
            modified: time(le16(slot, 24), le16(slot, 22), 0),
            accessed: time(le16(slot, 18), 0, 0),
            created: time(le16(slot, 16), le16(slot, 14), byte(slot, 13)),
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        match self.directory {
            true => FileType::Directory,
            false => FileType::File,
        }
    }

    pub(super) fn stat(&self) -> Stat {
        let size = if self.directory { 0 } else { self.size };
        Stat {
            modified: self.modified,
            accessed: self.accessed,
            created: self.created,
            dos_attributes: Some(self.attributes.into()),
            ..Stat::new(self.file_type(), size.into())
        }
    }
}

/// A local time without a zone, taken as UTC; none where there is no such date. `more` is in
/// units of 10 ms.
fn time(date: u16, time: u16, more: u8) -> Option<Time> {
    let (year, month, day) = (1980 + i64::from(date >> 9), date >> 5 & 15, date & 31);
    let (hour, minute, second) = (time >> 11, time >> 5 & 63, (time & 31) * 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        28 + u16::from(leap),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let before = usize::from(month.checked_sub(1)?);
    let length = *lengths.get(before)?;
    if day == 0 || day > length || hour > 23 || minute > 59 || second > 58 || more > 199 {
        return None;
    }
    let years = year - 1;
    // Leap days up to the end of 1969: 477.
    let leaps = years / 4 - years / 100 + years / 400 - 477;
    let in_year: u16 = lengths.iter().take(before).sum::<u16>() + day - 1;
    let days = (year - 1970) * 365 + leaps + i64::from(in_year);
    let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Some(Time {
        seconds: days * 86_400 + of_day + i64::from(more / 100),
        nanos: u32::from(more % 100) * 10_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_impossible_ones_are_none() {
        let date = |y: u16, m: u16, d: u16| (y - 1980) << 9 | m << 5 | d;
        let seconds = |date, clock| time(date, clock, 0).map(|t| t.seconds);
        assert_eq!(seconds(date(1980, 1, 1), 0), Some(315_532_800));
        assert_eq!(seconds(date(2000, 2, 29), 0), Some(951_782_400));
        assert_eq!(seconds(date(2100, 3, 1), 0), Some(4_107_542_400));
        let last = 23 << 11 | 59 << 5 | 29;
        assert_eq!(seconds(date(2024, 12, 31), last), Some(1_735_689_598));
        let odd = time(date(1980, 1, 1), 0, 150).unwrap();
        assert_eq!((odd.seconds, odd.nanos), (315_532_801, 500_000_000));
        for none in [0, date(2023, 2, 29), date(2100, 2, 29), date(2023, 13, 1)] {
            assert_eq!(seconds(none, 0), None);
        }
        assert_eq!(seconds(date(1980, 1, 1), 24 << 11), None);
    }
}
