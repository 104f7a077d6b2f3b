//! Exports that files declare, in nbd-server's own syntax.

mod config;
mod ini;
mod keys;

pub use config::{Configuration, read};
pub use ini::Problem;
pub use keys::{Declared, DeclaredFormat};
