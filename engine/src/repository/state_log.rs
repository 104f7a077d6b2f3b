//! What changes after the seal, one line of JSON each, only ever appended:
//! `{backup-id}.state.jsonl`.
//!
//! Every line carries its own checksum. A torn line (a crash in mid-append) is skipped and counted;
//! the next append starts on a fresh line. Losing a line loses a note, never a restore point.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sealed_json::{self, Format, moment};
use crate::Result;

const FORMAT: Format = Format {
    name: "sendense-state",
    version: 1,
};

/// The largest log that is read.
pub const MAX_STATE_BYTES: usize = 16 << 20;

/// One note on a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEntry {
    /// When.
    #[serde(with = "moment")]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: StateEvent,
}

/// What can happen to a restore point after its seal.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StateEvent {
    /// Every cluster was read and compared with its checksum.
    Verified {
        /// Whether all of them matched.
        ok: bool,
        /// How many bytes of the images were read.
        bytes: u64,
        /// What did not match, in a sentence; empty where all did.
        #[serde(default)]
        detail: String,
    },
    /// An event that a later version wrote.
    #[serde(other)]
    Unknown,
}

/// A log as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateLog {
    /// The notes, oldest first.
    pub entries: Vec<StateEntry>,
    /// Lines that are torn, damaged or of a newer version.
    pub unreadable: usize,
    /// Whether the file ends inside a line.
    torn_end: bool,
}

impl StateLog {
    /// Reads a log; nothing in it is an error.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut log = Self::default();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            if line == b"\n" {
                continue;
            }
            match sealed_json::decode_line(FORMAT, "a line", line) {
                Ok(entry) => log.entries.push(entry),
                Err(_) => log.unreadable += 1,
            }
        }
        log.torn_end = !bytes.is_empty() && !bytes.ends_with(b"\n");
        log
    }

    /// The bytes to append for one more note.
    pub fn encode_next(&self, entry: &StateEntry) -> Result<Vec<u8>> {
        let line = sealed_json::encode_line(FORMAT, entry)?;
        if self.torn_end {
            Ok([b"\n", line.as_slice()].concat())
        } else {
            Ok(line)
        }
    }

    /// When the point was last verified and found right, unless it was found wrong since.
    pub fn verified_at(&self) -> Option<Timestamp> {
        let last = self
            .entries
            .iter()
            .rev()
            .find_map(|entry| match entry.event {
                StateEvent::Verified { ok, .. } => Some((ok, entry.at)),
                StateEvent::Unknown => None,
            });
        last.filter(|(ok, _)| *ok).map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verified(second: i64, ok: bool) -> StateEntry {
        StateEntry {
            at: Timestamp::from_second(second).unwrap(),
            event: StateEvent::Verified {
                ok,
                bytes: 4096,
                detail: String::new(),
            },
        }
    }

    fn written(entries: &[StateEntry]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            let line = StateLog::decode(&bytes).encode_next(entry).unwrap();
            bytes.extend(line);
        }
        bytes
    }

    #[test]
    fn the_last_verdict_counts() {
        let (good, bad) = (verified(10, true), verified(20, false));
        let log = StateLog::decode(&written(&[good.clone(), bad.clone()]));
        assert_eq!(log.entries, [good.clone(), bad.clone()]);
        assert_eq!(log.verified_at(), None);
        let log = StateLog::decode(&written(&[bad, good]));
        assert_eq!(log.verified_at().unwrap().as_second(), 10);
        assert_eq!(StateLog::decode(b""), StateLog::default());
    }

    #[test]
    fn events_of_later_versions_are_kept_apart() {
        let line = sealed_json::encode_line(
            FORMAT,
            &serde_json::json!({"at": "2025-10-04T12:00:00Z", "event": "held", "by": "x"}),
        )
        .unwrap();
        let log = StateLog::decode(&line);
        assert_eq!(log.entries[0].event, StateEvent::Unknown);
        assert_eq!(log.unreadable, 0);
    }

    proptest! {
        #[test]
        fn a_torn_line_costs_only_itself(cut in 0usize..100, damage in any::<u8>()) {
            let first = verified(1, true);
            let mut bytes = written(std::slice::from_ref(&first));
            let second = StateLog::decode(&bytes).encode_next(&verified(2, true)).unwrap();
            let keep = cut.min(second.len() - 1);
            bytes.extend(&second[..keep]);
            if keep > 0 && damage > 0 {
                *bytes.last_mut().unwrap() ^= damage;
            }
            let line = StateLog::decode(&bytes).encode_next(&verified(3, true)).unwrap();
            bytes.extend(line);
            let log = StateLog::decode(&bytes);
            prop_assert_eq!(log.entries.first(), Some(&first));
            prop_assert_eq!(log.entries.last(), Some(&verified(3, true)));
            prop_assert!(log.entries.len() == 2 && log.unreadable <= 2);
        }

        #[test]
        fn garbage_is_counted_not_fatal(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = StateLog::decode(&bytes);
        }
    }
}
