//! The NBD protocol: a sans-io handshake and session, one `serve` loop over two small traits
//! (how buffers are lent: [`BufferPool`]; what bytes mean: [`Export`]), and the client side.
//!
//! The crate knows nothing of QCOW2. Futures of an export are `!Send` on purpose: a connection
//! stays on the thread that accepted it.
#![forbid(unsafe_code)]

pub mod activation;
pub mod buffer;
#[cfg(feature = "client")]
pub mod client;
pub mod error;
pub mod export;
pub mod fuzzing;
pub mod handshake;
pub mod limits;
pub mod memory;
pub mod meta;
pub mod registry;
pub mod serve;
pub mod session;
#[cfg(feature = "tls")]
pub mod tls;
pub mod uri;
pub mod wire;

pub use buffer::{Buffer, BufferPool, HeapPool, Purpose};
pub use error::NbdError;
pub use export::{
    BlockSize, Done, Export, ExportInfo, Exports, Listed, Peer, Refused, StatusExtent, ZeroFlags,
};
pub use limits::Limits;
pub use serve::{ServeConfig, ServeError, Summary, TlsMode, serve};
pub use uri::NbdUri;
