//! Exports that files declare, in nbd-server's own syntax.
//!
//! A file is parsed and validated as a whole, and then applied at once or not at all. Names in
//! files are the operator's word: their paths are opened as they are.

mod config;
mod disks;
mod ini;
mod keys;
mod open;
mod plan;
mod reload;
mod rules;
#[cfg(test)]
mod tests;

pub use config::{Configuration, read};
pub use ini::Problem;
pub use keys::{Declared, DeclaredFormat};
pub use reload::{DeclaredExports, DeclaredStatus, ReloadReport};
pub use rules::Rule;
