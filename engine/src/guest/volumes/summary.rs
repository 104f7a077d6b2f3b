//! What there is to tell of a volume before anything on it is opened.

use serde::{Deserialize, Serialize};

use super::{Content, Origin, Volume};

/// A [`Volume`] without its bytes: owned, for other processes and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// As in [`Volume::id`].
    pub id: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The disks that it lies on, ascending.
    pub disks: Vec<u32>,
    /// Bytes.
    pub size: u64,
    /// The table's own name for it, where there is one.
    pub name: Option<String>,
    /// What its signatures say, readable; `None` where it cannot be looked at.
    pub content: Option<String>,
    /// Why it cannot be looked at.
    pub unavailable: Option<String>,
    /// As in [`Volume::notes`].
    pub notes: Vec<String>,
}

impl Volume {
    /// Sums it up.
    pub fn summary(&self) -> Summary {
        let (content, unavailable) = match &self.content {
            Content::Blocks { found, .. } => (Some(found.name().to_owned()), None),
            Content::Unavailable(why) => (None, Some(why.clone())),
        };
        Summary {
            id: self.id.clone(),
            origin: self.origin,
            disks: self.disks.clone(),
            size: self.size,
            name: self.name.clone(),
            content,
            unavailable,
            notes: self.notes.clone(),
        }
    }
}
