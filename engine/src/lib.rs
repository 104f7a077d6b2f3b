//! Moves the bytes of Sendense: storage on io_uring, ingest, seal, chains, restore, repositories.
//!
//! Libraries never log to a terminal and never read the environment. `unsafe` lives in `uring`
//! and `sys` only.
#![deny(unsafe_code)]

pub mod allow;
pub mod chain;
pub mod declared;
pub mod error;
pub mod export;
pub mod guest;
pub mod ingest;
pub mod io;
pub mod plane;
pub mod pool;
pub mod pull;
pub mod repository;
pub mod restore;
pub mod storage;
#[expect(
    unsafe_code,
    reason = "what no safe crate wraps: byte locks, handed-over sockets"
)]
pub mod sys;
pub mod transfer;
#[expect(
    unsafe_code,
    reason = "submissions and registered memory are raw addresses"
)]
mod uring;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
