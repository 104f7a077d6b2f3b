//! System calls that no safe crate wraps: byte locks of open file descriptions, and sockets that
//! a supervisor opened for us.

pub mod activation;
pub(crate) mod locks;
