//! Disks that the data plane serves and that are not growing: restore points, declared files and
//! devices.

mod file;
mod restore;
mod status;
#[cfg(test)]
mod tests;

pub use file::{FileExportOptions, FileSource};
pub use restore::{CHANGED_CONTEXT, RestoreSource};
