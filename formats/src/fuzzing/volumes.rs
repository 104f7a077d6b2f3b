//! Bodies for partition tables and LVM2 metadata. Checksums are made right first where that can be:
//! what stands behind them is to be reached.

use crate::lvm::{self, Area, AreaHeader, Group, Label, Layout};
use crate::partition::{GptHeader, LogicalWalk, Mbr, gpt};

/// Takes the bytes as the first sectors of a disk: an MBR, the tables of its logical partitions one
/// after the other, and a GPT.
///
/// Promises: a chain of logical partitions ends, wherever its tables say that they lie; the entries
/// of a GPT are numbered upwards.
#[expect(
    clippy::missing_panics_doc,
    reason = "a panic is what the fuzzer looks for"
)]
pub fn fuzz_partitions(bytes: &[u8]) {
    let mut sectors = bytes.chunks(512);
    let extended = sectors.next().and_then(Mbr::parse).and_then(|mbr| {
        let mut slots = mbr.slots.into_iter().flatten();
        slots.find(|slot| slot.is_extended())
    });
    if let Some(extended) = extended {
        let tables: Vec<&[u8]> = sectors.collect();
        let mut walk = LogicalWalk::new(extended);
        for step in 0..=1000usize {
            if walk.wanted().is_none() {
                break;
            }
            assert!(step < 1000, "a chain without an end");
            // The same few again and again.
            let at = step.checked_rem(tables.len()).unwrap_or(0);
            let _ = walk.give(tables.get(at).copied().unwrap_or_default());
        }
    }
    let Some(mut sector) = bytes.get(512..1024).map(<[u8]>::to_vec) else {
        return;
    };
    let behind = bytes.get(1024..).unwrap_or_default();
    seal_gpt(&mut sector, behind);
    if let Ok(header) = GptHeader::parse(&sector, 1) {
        assert!(header.entries_len() <= gpt::MAX_ENTRIES_BYTES, "too many");
        let table = behind.get(..header.entries_len());
        if let Some(Ok(entries)) = table.map(|table| header.entries(table)) {
            let upwards = entries.is_sorted_by(|a, b| a.number < b.number);
            assert!(upwards, "entries out of order");
        }
    }
}

fn seal_gpt(sector: &mut [u8], behind: &[u8]) {
    let word = |sector: &[u8], at| crate::little::u32_at(sector, at).unwrap_or(0);
    let len = u64::from(word(sector, 80)).saturating_mul(word(sector, 84).into());
    let entries = usize::try_from(len).ok().and_then(|len| behind.get(..len));
    if let Some(entries) = entries {
        put(sector, 88, crc32fast::hash(entries));
    }
    put(sector, 16, 0);
    let len = usize::try_from(word(sector, 12)).unwrap_or(0);
    if let Some(header) = sector.get(..len) {
        let crc = crc32fast::hash(header);
        put(sector, 16, crc);
    }
}

/// Takes the bytes as the beginning of a physical volume: its label in sector 1, the header of a
/// metadata area behind it, then a text.
///
/// Promises: a text lies inside of its area; the segments of a volume follow each other and are
/// whole stripes.
#[expect(
    clippy::missing_panics_doc,
    reason = "a panic is what the fuzzer looks for"
)]
pub fn fuzz_lvm(bytes: &[u8]) {
    if let Some(mut sector) = bytes.get(..512).map(<[u8]>::to_vec) {
        let crc = lvm::checksum(sector.get(20..).unwrap_or_default());
        put(&mut sector, 16, crc);
        let _ = Label::parse(&sector, 1);
    }
    if let Some(mut header) = bytes.get(512..1024).map(<[u8]>::to_vec) {
        let crc = lvm::checksum(header.get(4..).unwrap_or_default());
        put(&mut header, 0, crc);
        let area = Area {
            at: 4096,
            len: 1 << 20,
        };
        if let Ok(AreaHeader { text: Some(text) }) = AreaHeader::parse(&header, area) {
            let inside =
                |part: &Area| part.at >= area.at && part.at + part.len <= area.at + area.len;
            assert!(text.parts.iter().all(inside), "a text outside of its area");
        }
    }
    let Ok(group) = Group::parse(bytes.get(1024..).unwrap_or(bytes)) else {
        return;
    };
    for segments in group
        .logical
        .iter()
        .filter_map(|lv| lv.segments.as_ref().ok())
    {
        let mut next = 0;
        for segment in segments {
            assert_eq!(segment.start, next, "a gap between segments");
            next += segment.extents;
            if let Layout::Striped { areas, .. } = &segment.layout {
                let count = areas.len() as u64;
                assert!(
                    count > 0 && segment.extents.is_multiple_of(count),
                    "stripes that are not whole"
                );
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(slot) = bytes.get_mut(at..at + 4) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
}
