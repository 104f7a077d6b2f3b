//! The data plane: what the NBD server's connections run on.

mod source;

pub use source::{AttachedExport, DynExport, Source};
