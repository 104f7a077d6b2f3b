//! Every view is compared with the kernel's own mount of the same image.

mod clean;
mod dirty;
mod hostile;

use crate::guest::testing::{fixture, tree, view};
