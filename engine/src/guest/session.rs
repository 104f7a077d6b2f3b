//! The file systems of one machine's disks, opened once and used until it is dropped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::volumes::{Content, Disk, Summary, Volume, volumes};
use super::{Cached, Facts, Fault, FaultKind, FileSystem, Found, OpenOptions, Result, State, open};

/// Memory for what is read of one volume again and again, in bytes.
const CACHE: usize = 32 << 20;

/// How a volume can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing was pending.
    Clean,
    /// Its journal was replayed in memory.
    Replayed,
    /// Its journal was not replayed: shown with a warning, or refused.
    Unreplayed,
    /// What is on it is known and not read yet.
    Unsupported,
    /// It contradicts itself.
    Damaged,
    /// It could not be read now.
    Unreadable,
    /// It cannot be put together.
    Unavailable,
}

impl Standing {
    /// The word for it, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Replayed => "replayed",
            Self::Unreplayed => "unreplayed",
            Self::Unsupported => "unsupported",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What there is to tell of a volume, its file system among it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// The volume.
    #[serde(flatten)]
    pub volume: Summary,
    /// How it can be looked at; none for a part of another volume, or where nothing is known.
    pub state: Option<Standing>,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// The file system, where it could be opened.
    pub file_system: Option<Facts>,
}

/// The volumes of one machine's disks and their open file systems. From any thread.
#[derive(Debug)]
pub struct Session {
    volumes: Vec<VolumeFacts>,
    open: Vec<Result<Arc<dyn FileSystem>>>,
}

impl Session {
    /// Finds the volumes of all disks and opens what can be opened, in this process. Guest data
    /// is hostile: outside of tests and fuzzing a process of its own does this.
    ///
    /// # Errors
    /// Where a disk cannot be read. A volume that cannot be opened says so in its facts.
    pub fn in_process(disks: &[Disk], options: &OpenOptions) -> Result<Self> {
        let mut session = Self {
            volumes: Vec::new(),
            open: Vec::new(),
        };
        for volume in volumes(disks)? {
            let opened = open_volume(&volume, options);
            session.volumes.push(facts(&volume, &opened));
            session.open.push(opened);
        }
        Ok(session)
    }

    /// What there is, in order.
    pub fn volumes(&self) -> &[VolumeFacts] {
        &self.volumes
    }

    /// The file system on the volume with this id.
    ///
    /// # Errors
    /// `NotFound` where there is no such volume; why it could not be opened.
    pub fn file_system(&self, id: &str) -> Result<Arc<dyn FileSystem>> {
        let mut all = self.volumes.iter().zip(&self.open);
        match all.find(|(facts, _)| facts.volume.id == id) {
            Some((_, opened)) => opened.clone().map_err(|fault| fault.at(id)),
            None => {
                let ids: Vec<&str> = self.volumes.iter().map(|v| v.volume.id.as_str()).collect();
                Err(Fault::new(
                    FaultKind::NotFound,
                    format!("there is no volume {id:?}; there are {}", ids.join(", ")),
                ))
            }
        }
    }
}

fn open_volume(volume: &Volume, options: &OpenOptions) -> Result<Arc<dyn FileSystem>> {
    match &volume.content {
        Content::Blocks { blocks, .. } => {
            let cached = Arc::new(Cached::new(Arc::clone(blocks), CACHE));
            open(cached, options).map(Arc::from)
        }
        Content::Unavailable(why) => Err(Fault::new(FaultKind::NotFound, why.clone())),
    }
}

fn facts(volume: &Volume, opened: &Result<Arc<dyn FileSystem>>) -> VolumeFacts {
    let (state, reason) = match (&volume.content, opened) {
        (Content::Unavailable(why), _) => (Some(Standing::Unavailable), Some(why.clone())),
        // A part of something that has lines of its own; the notes say of what.
        (Content::Blocks { found, .. }, _) if *found == Found::LvmMember => (None, None),
        (_, Ok(fs)) => match &fs.facts().state {
            State::Clean => (Some(Standing::Clean), None),
            State::Replayed { reason } => (Some(Standing::Replayed), Some(reason.clone())),
            State::Unreplayed { reason } => (Some(Standing::Unreplayed), Some(reason.clone())),
        },
        (_, Err(fault)) => {
            let state = match fault.kind {
                FaultKind::Unsupported => Some(Standing::Unsupported),
                FaultKind::Stale => Some(Standing::Unreplayed),
                FaultKind::NotFound => None,
                FaultKind::Io | FaultKind::WorkerGone => Some(Standing::Unreadable),
                _ => Some(Standing::Damaged),
            };
            (state, Some(fault.to_string()))
        }
    };
    VolumeFacts {
        volume: volume.summary(),
        state,
        reason,
        file_system: opened.as_ref().ok().map(|fs| fs.facts().clone()),
    }
}
