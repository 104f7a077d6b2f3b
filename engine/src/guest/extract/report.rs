//! What an extraction did, and what it did not.

use serde::{Deserialize, Serialize};

/// Notes that a report keeps; all are counted, and all were told while it went on.
const MAX_NOTES: usize = 1000;

/// What became of one item that is not wholly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// It is not there.
    Failed,
    /// It is not there because nobody asked for its kind.
    Skipped,
    /// It is there, and something of it is not: an owner, an attribute, a stream.
    Incomplete,
}

/// One item that is not wholly there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its path in the guest, readable.
    pub path: String,
    /// What became of it.
    pub kind: NoteKind,
    /// Why, or what is missing.
    pub what: String,
}

impl Note {
    pub(super) fn new(path: &[u8], kind: NoteKind, what: String) -> Self {
        Self {
            path: format!(
                "/{}",
                path.strip_prefix(b"/").unwrap_or(path).escape_ascii()
            ),
            kind,
            what,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Files made.
    pub files: u64,
    /// Directories made or entered.
    pub directories: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Further names of files made.
    pub hard_links: u64,
    /// Device nodes, sockets and pipes made.
    pub special: u64,
    /// Those that were skipped.
    pub special_skipped: u64,
    /// Bytes of content written, holes not among them.
    pub bytes: u64,
    /// Items that are not there.
    pub failed: u64,
    /// Items of which something is missing, each as often as something is.
    pub incomplete: u64,
    /// What must be told with all of it: the journal was not replayed.
    pub warning: Option<String>,
    /// The first notes.
    pub notes: Vec<Note>,
}

impl Report {
    /// Items that are there now.
    pub const fn made(&self) -> u64 {
        let one = self.files.saturating_add(self.directories);
        let two = self.symlinks.saturating_add(self.hard_links);
        one.saturating_add(two).saturating_add(self.special)
    }

    pub(super) fn count(&mut self, note: &Note) {
        match note.kind {
            NoteKind::Failed => self.failed += 1,
            NoteKind::Incomplete => self.incomplete += 1,
            NoteKind::Skipped => {}
        }
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note.clone());
        }
    }
}
