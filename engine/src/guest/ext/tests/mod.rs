//! Every view is compared with the kernel's own mount of the same image.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the numbers are the tests' own"
)]

mod clean;
mod dirty;
mod hostile;

use crate::guest::testing::{fixture, tree, view};
