//! An ingest over memory: what it seals, what it asks for again, and what fails with it.

mod cancel;
mod durable;
mod failures;
mod image;
mod missing;
mod model;
mod rig;
mod status;

const CLUSTER: u64 = 65536;
