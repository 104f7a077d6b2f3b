//! One backup from its start to its restore point, or to nothing.
//!
//! ```text
//! start ── receiving ──────── complete, per disk ── all prepared ── commit ── catalog ── done
//!             │  ▲ refused: not all sent │                │ failed     │ retried
//!             │  └───────────────────────┘                ▼            (503 for this VM)
//!             └── cancel, failure ───────────────────── ended, nothing left
//! ```
//! Invariant: a job that has begun to commit can no longer be cancelled; one that was ended has
//! given its files and locks back before it is forgotten.

mod changes;
mod complete;
mod end;
mod ingest;
mod jobs;
mod plan;
mod pull;
mod running;
mod source;
mod start;
mod view;
mod watch;

pub(super) use changes::Lists;
pub(super) use jobs::Jobs;
pub(super) use running::Running;
pub(super) use source::{Place, check_remote, paths, refusal};
pub(super) use view::{parse, rate};
