//! Disk formats as pure plans: QCOW2 reading and writing, raw, changed-extent lists, partition
//! tables, LVM2 metadata.
//!
//! Nothing here opens a file, a socket or a clock. The crate says *which* bytes belong *where* and
//! in which order; whoever uses it moves them. Every input is treated as hostile: no panic, no
//! allocation that a header merely claims.
//!
//! - [`qcow2::Writer`] plans a growing image: where data goes, and its metadata at the seal.
//! - [`qcow2::Opener`] and [`qcow2::Image`] read any image that QEMU writes: open, then map guest
//!   bytes to the file, one L2 table at a time. [`qcow2::decompress`] unpacks.
//! - [`qcow2::check`] tells damage and leaks as `qemu-img check` does.
//! - [`partition`] and [`lvm`] tell which volumes lie where on the disks of a machine.
//! - [`ChangeList`] takes a hypervisor's changed extents, only as a complete answer.
//!
//! An image written and read, with a `Vec` as the file:
//!
//! ```
//! use sendense_formats::qcow2::{
//!     self, CreateOptions, OpenPolicy, OpenStep, Opener, Outcome, ReadAt, TableAt, Target, Writer,
//! };
//! use sendense_formats::{ClusterIndex, ClusterSize, GuestRange, HostOffset};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut file = Vec::new();
//! let mut put = |at: HostOffset, bytes: &[u8]| {
//!     let at = at.get() as usize;
//!     file.resize(file.len().max(at + bytes.len()), 0);
//!     file[at..at + bytes.len()].copy_from_slice(bytes);
//! };
//!
//! // Plan a write, move the bytes, settle: only then the image refers to them.
//! let mut writer = Writer::create(CreateOptions {
//!     virtual_size: 1 << 30,
//!     cluster: ClusterSize::DEFAULT,
//!     backing: None,
//! })?;
//! let plan = writer.plan_write(ClusterIndex::new(100), 1)?;
//! for run in &plan.runs {
//!     put(run.host, &[7; 65536]);
//! }
//! writer.settle(plan, Outcome::Done)?;
//!
//! // The metadata, and the header last.
//! let seal = writer.seal()?;
//! for (at, bytes) in seal.metadata() {
//!     put(at, &bytes);
//! }
//! put(HostOffset::new(0), &seal.header());
//!
//! // Open it: bytes are asked for, and given.
//! let mut opener = Opener::new(file.len() as u64, OpenPolicy::default());
//! let image = loop {
//!     match opener.step()? {
//!         OpenStep::Need { at, len } => {
//!             let at = at.get() as usize;
//!             opener.give(file[at..at + len].to_vec());
//!         }
//!         OpenStep::Done(image) => break image,
//!     }
//! };
//! let TableAt::At { host, len } = image.table(0)? else {
//!     return Err("no table".into());
//! };
//! let mut table = vec![0; len];
//! file.read_at(host, &mut table)?;
//! let range = GuestRange::new(100 * 65536 + 5, 10).ok_or("too large")?;
//! let found = image.map_table(0, Some(&table), range)?;
//! assert_eq!(found.len(), 1);
//! let Target::Data { host } = found[0].target else {
//!     return Err("no data".into());
//! };
//! assert_eq!(file[host.get() as usize], 7);
//!
//! assert!(qcow2::check(&file, OpenPolicy::default())?.is_clean());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod changes;
pub mod error;
pub mod fuzzing;
mod little;
pub mod lvm;
pub mod partition;
pub mod qcow2;
pub mod range;
pub mod range_set;
pub mod raw;

pub use changes::ChangeList;
pub use error::{Error, ErrorKind, Result};
pub use range::{ClusterIndex, ClusterSize, GuestOffset, GuestRange, HostOffset};
pub use range_set::RangeSet;
