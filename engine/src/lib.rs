//! Moves the bytes of Sendense: storage on io_uring, ingest, seal, chains, restore, repositories.
//!
//! Libraries never log to a terminal and never read the environment. `unsafe` lives in `uring`
//! and `sys` only.
#![deny(unsafe_code)]

pub mod declared;
pub mod error;

pub use error::{Error, ErrorKind, Result};
