//! Bodies of the fuzz targets, as functions: the targets are three lines, and the ordinary test
//! run replays their corpus on stable.
//!
//! Each takes any bytes, must not panic for another reason than a broken promise asserted here,
//! and takes time and memory in proportion to its input.

mod volumes;

use crate::changes::{ChangeList, Page, Pager, ParseLimits};
use crate::qcow2::{
    self, Header, Image, Mapping, OpenPolicy, ReadAt, TableAt, Target, check, decompress,
    repair_leaks,
};
use crate::range::GuestRange;

pub use volumes::{fuzz_lvm, fuzz_partitions};

/// Tables that are mapped of one image, and packed clusters that are unpacked.
const TABLES: u64 = 64;
const UNPACKED: usize = 16;

/// Takes the bytes as a QCOW2 file: opens, maps, unpacks and checks it.
///
/// Promises: a header that we can write reads back as it was; a map covers its table once and in
/// order; what a check calls clean can be mapped; repaired leaks leave a clean image.
#[expect(
    clippy::missing_panics_doc,
    reason = "a panic is what the fuzzer looks for"
)]
pub fn fuzz_qcow2(bytes: &[u8]) {
    let clean = fuzz_check(bytes);
    let Ok(image) = qcow2::open(bytes, OpenPolicy::default()) else {
        return;
    };
    if let Ok(written) = image.header().encode() {
        let again = Header::parse(&written, ReadAt::len(bytes));
        assert_eq!(
            again.as_ref(),
            Ok(image.header()),
            "a header changed on its way"
        );
    }
    let mut unpacked = 0;
    for index in 0..image.tables().min(TABLES) {
        let Some(found) = map(bytes, &image, index) else {
            assert!(!clean, "table {index} of a clean image cannot be mapped");
            continue;
        };
        let start = index * image.bytes_per_table();
        let end = image.virtual_size().min(start + image.bytes_per_table());
        let mut at = start;
        for mapping in &found {
            assert_eq!(mapping.range.start().get(), at, "a map has a gap");
            at = mapping.range.end().get();
            if unpacked < UNPACKED && unpack(bytes, &image, mapping) {
                unpacked += 1;
            }
        }
        assert_eq!(at, end, "a map does not cover its table");
    }
}

/// Checks the bytes and applies the repair of leaks; whether they are clean as they are.
fn fuzz_check(bytes: &[u8]) -> bool {
    let Ok(report) = check(bytes, OpenPolicy::default()) else {
        return false;
    };
    if report.leaks > 0
        && let Ok(writes) = repair_leaks(&report)
    {
        let mut repaired = bytes.to_vec();
        for (at, new) in writes {
            let from = usize::try_from(at.get()).unwrap_or(usize::MAX);
            let slot = from
                .checked_add(new.len())
                .and_then(|to| repaired.get_mut(from..to));
            // A block in the file's cut last cluster cannot be repaired in place.
            match slot {
                Some(slot) => slot.copy_from_slice(&new),
                None => return false,
            }
        }
        let again = check(&repaired, OpenPolicy::default());
        assert!(
            again.is_ok_and(|report| report.is_clean()),
            "a repair of leaks left damage"
        );
    }
    report.is_clean()
}

fn map(bytes: &[u8], image: &Image, index: u64) -> Option<Vec<Mapping>> {
    let table = match image.table(index).ok()? {
        TableAt::Absent => None,
        TableAt::At { host, len } => {
            let mut table = vec![0; len];
            bytes.read_at(host, &mut table).ok()?;
            Some(table)
        }
    };
    let all = GuestRange::new(0, u64::MAX)?;
    image.map_table(index, table.as_deref(), all).ok()
}

fn unpack(bytes: &[u8], image: &Image, mapping: &Mapping) -> bool {
    let Target::Compressed { host, len } = mapping.target else {
        return false;
    };
    let mut packed = vec![0; len];
    let mut cluster = vec![0; image.cluster().bytes_usize()];
    if bytes.read_at(host, &mut packed).is_ok() {
        let _ = decompress(image.header().compression, &packed, &mut cluster);
    }
    true
}

/// Takes the bytes as a change list in JSON, and as pages of a hypervisor's answer.
///
/// Promises: a list stays inside of its disk, sorted and merged, and reads the same in pieces; a pager gives a list out only after
/// pages that cover the disk.
#[expect(
    clippy::missing_panics_doc,
    reason = "a panic is what the fuzzer looks for"
)]
pub fn fuzz_changes(bytes: &[u8]) {
    const DISK: u64 = 1 << 16;
    let sound = |list: &ChangeList| {
        let apart = |w: &[GuestRange]| match w {
            [a, b] => a.end() < b.start(),
            _ => true,
        };
        list.check_within(DISK).is_ok() && list.ranges().windows(2).all(apart)
    };
    let limits = ParseLimits {
        max_extents: 100,
        ..ParseLimits::default()
    };
    let whole = ChangeList::parse_json(bytes, DISK, limits);
    let (front, back) = bytes.split_at(bytes.len() / 3);
    let pieces = std::io::Read::chain(front, back);
    let read = ChangeList::read_json(pieces, DISK, limits);
    assert_eq!(read, whole, "a list that depends on how it came");
    if let Ok(list) = whole {
        assert!(sound(&list), "a list that is not sound");
        assert!(sound(&list.align_out(512).clip(DISK)), "aligned badly");
    }
    // Pages: an extent count, a start and a length, then that many offsets and lengths.
    let mut words = bytes.chunks_exact(2).map(|w| match w {
        [a, b] => u64::from(u16::from_be_bytes([*a, *b])),
        _ => 0,
    });
    let mut pager = Pager::new(DISK);
    let mut spoken = 0;
    while let (Some(count), Some(start), Some(length)) = (words.next(), words.next(), words.next())
    {
        let mut extents = Vec::new();
        for _ in 0..count % 8 {
            extents.extend(words.next().zip(words.next()));
        }
        let page = Page {
            start,
            length: length + (length & 1),
            extents,
        };
        spoken += page.length;
        if pager.give(page).is_err() {
            assert_eq!(pager.next_start(), None, "a refused page was forgiven");
            assert!(pager.finish().is_err(), "a list from a refused page");
            return;
        }
        assert_eq!(pager.covered(), spoken, "bytes that no page spoke about");
    }
    let whole = pager.next_start().is_none();
    match pager.finish() {
        Ok(list) => assert!(whole && spoken == DISK && sound(&list), "a list too early"),
        Err(_) => assert!(!whole, "a whole answer was refused"),
    }
}
