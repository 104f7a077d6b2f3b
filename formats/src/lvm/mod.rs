//! LVM2 metadata: which extents of which physical volumes a logical volume is made of.
//!
//! Written from the format alone: a label in one of the first four sectors names the metadata
//! areas; each is a ring that holds a text, checksummed; the text is parsed into a [`Group`]. No
//! device-mapper, no I/O: the caller reads and hands over.

mod area;
mod group;
mod id;
mod label;
mod text;

pub use area::{AreaHeader, TextAt};
pub use group::{Group, Layout, Logical, Physical, Role, Segment};
pub use id::Id;
pub use label::{Area, Label};
pub use text::{Section, Value};

/// Bytes of the sectors that LVM2 counts in, whatever the disk's sectors are.
pub const SECTOR: u64 = 512;

/// LVM2's checksum: the usual polynomial, begun with a value of its own and not inverted.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    const BEGIN: u32 = 0xf597_a6cf;
    let mut crc = crc32fast::Hasher::new_with_initial(!BEGIN);
    crc.update(bytes);
    !crc.finalize()
}
