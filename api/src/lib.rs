//! The control plane of Sendense: REST, catalog, jobs, configuration, the daemon and the command
//! line.
//!
//! Rooms, by what they may know: [`types`] are the shapes of the REST contract and know nothing
//! else; `store` is SQL only; `service` holds the rules and knows no HTTP; `routes` is HTTP only;
//! `daemon` puts them together. `client` and `cli` sit on the other side of the wire and build
//! without a database or rings (`--no-default-features --features client`).
#![forbid(unsafe_code)]

pub mod types;

#[cfg(feature = "client")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod mover;

#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod config;
#[cfg(all(feature = "server", feature = "client"))]
pub mod daemon;
#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
pub mod pki;
#[cfg(all(feature = "server", feature = "client"))]
pub mod quickstart;
#[cfg(feature = "server")]
pub mod routes;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod store;
