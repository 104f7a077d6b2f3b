//! Bodies of the fuzz targets, as functions: the targets are three lines, and the ordinary test
//! run replays their corpus on stable.
//!
//! Each takes any bytes, must not panic for another reason than a broken promise asserted here,
//! and takes time and memory in proportion to its input.

use crate::qcow2::{
    self, Header, Image, Mapping, OpenPolicy, ReadAt, TableAt, Target, check, decompress,
    repair_leaks,
};
use crate::range::GuestRange;

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
