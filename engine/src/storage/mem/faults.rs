//! What a memory directory is told to get wrong.

use std::collections::HashSet;
use std::io;

use super::log::OpKind;

/// One failure to come.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operations count.
    pub kind: OpKind,
    /// Only those on a path that ends so; `None` for all.
    pub path_ends: Option<String>,
    /// How many succeed before.
    pub after: u64,
    /// Whether all that follow fail too, or only one.
    pub forever: bool,
    /// The error number that it fails with.
    pub errno: i32,
    /// For writes: how many bytes are written all the same.
    pub torn: Option<usize>,
}

impl Fault {
    /// The next operation of this kind fails with EIO, once.
    pub fn next(kind: OpKind) -> Self {
        Self {
            kind,
            path_ends: None,
            after: 0,
            forever: false,
            errno: libc::EIO,
            torn: None,
        }
    }
}

/// How an operation is to go.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    pub(super) torn: Option<usize>,
}

/// The faults that wait for their operation.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) waiting: Vec<Fault>,
    pub(super) unsupported: HashSet<OpKind>,
}

impl Faults {
    /// Counts an operation and says whether it fails.
    pub(super) fn meet(&mut self, kind: OpKind, path: &str) -> Option<Failure> {
        let mut hit = None;
        for (index, fault) in self.waiting.iter_mut().enumerate() {
            let here = fault
                .path_ends
                .as_ref()
                .is_none_or(|end| path.ends_with(end.as_str()));
            if fault.kind != kind || !here {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if hit.is_none() {
                let error = io::Error::from_raw_os_error(fault.errno);
                hit = Some((
                    index,
                    fault.forever,
                    Failure {
                        error,
                        torn: fault.torn,
                    },
                ));
            }
        }
        hit.map(|(index, forever, failure)| {
            if !forever {
                self.waiting.remove(index);
            }
            failure
        })
    }
}
