//! Support for the end-to-end tests: a real daemon, real QEMU tools and NBD clients as oracles,
//! and disks whose content is known.
//!
//! Nothing here reaches into the product: it speaks REST, NBD and the command line, as a user does.

pub mod backup;
pub mod command;
pub mod daemon;
pub mod device;
pub mod disk;
pub mod guest;
pub mod image;
pub mod mover;
pub mod oracle;
pub mod raw;
pub mod tree;
