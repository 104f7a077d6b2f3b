//! The one error envelope (RFC 9457) and the stable codes in it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An error, as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// A URI that names the code: `urn:sendense:problem:{code}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code, for matching.
    pub code: String,
    /// What happened, with the values.
    pub detail: String,
    /// What to do about it.
    pub hint: String,
    /// Members that only some codes have, such as `missing` and `dependents`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal, $title:literal, $hint:literal;)*) => {
        /// The stable codes. A code has one HTTP status for ever.
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The code in words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What to do about it, where nothing better is known.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

codes! {
    /// The request is not what the route takes.
    BadRequest = "bad_request", 400, "The request is malformed", "correct what the detail names";
    /// The body is no JSON.
    BadJson = "bad_json", 400, "The body is not valid JSON", "correct the JSON at the place that the detail names";
    /// No token, or one that is not known.
    Unauthenticated = "unauthenticated", 401, "A valid token is needed", "set SENDENSE_TOKEN_FILE to a file that holds a token; the first one is admin.token in the daemon's data directory";
    /// The caller may not, or the path is outside of the allow-list.
    NotAllowed = "not_allowed", 403, "That is not allowed", "ask an administrator; paths on the daemon's host must lie beneath sources.allow or targets.allow in its configuration";
    /// No such route.
    NoSuchRoute = "no_such_route", 404, "There is no such route", "check the path: all routes begin with /api/v1";
    /// Something named is not there.
    NotFound = "not_found", 404, "It was not found", "check the name; `sendense-ctl backup list` shows what is there";
    /// The machine is not registered.
    VmNotFound = "vm_not_found", 404, "The machine is not known", "register it with `sendense-ctl vm add`, or start a full that brings its disks";
    /// No such backup.
    BackupNotFound = "backup_not_found", 404, "There is no such backup", "`sendense-ctl backup list` shows what is there";
    /// No such disk.
    DiskNotFound = "disk_not_found", 404, "There is no such disk", "`sendense-ctl vm show` and `sendense-ctl backup show` name the disks";
    /// No such repository.
    RepositoryNotFound = "repository_not_found", 404, "There is no such repository", "`sendense-ctl repo list` shows what is there";
    /// The route is there, the method is not.
    MethodNotAllowed = "method_not_allowed", 405, "The method is not allowed here", "GET reads, POST acts, PUT sends, DELETE removes";
    /// The daemon gave up on the request.
    Timeout = "timeout", 408, "The request took too long", "try again; long work is a job: follow it with `sendense-ctl job show`";
    /// A name stands for several things.
    Ambiguous = "ambiguous_name", 409, "The name stands for more than one", "use one of the ids";
    /// It is there already.
    Exists = "exists", 409, "It is there already", "choose another name; nothing is overwritten unasked";
    /// A disk number is bound to another device.
    DiskIdentity = "disk_identity_mismatch", 409, "The disk number belongs to another disk", "send the disk under the number that its device key is bound to; a new disk takes a new number";
    /// The base token is not what the parent became.
    BaseTokenMismatch = "base_token_mismatch", 409, "The blocks do not fit the newest restore point", "run a full backup, or start with allow_full to get one when it is needed";
    /// Nothing is there to build on.
    NoParent = "no_parent", 409, "There is no restore point to build on", "run a full backup first, or start with allow_full";
    /// Not everything was sent.
    IncompleteCoverage = "incomplete_coverage", 409, "Not all of the disk was sent", "send the missing ranges, then complete again";
    /// Others depend on it.
    HasDependents = "has_dependents", 409, "Other restore points depend on it", "delete those first, or pass with_dependents";
    /// The call does not fit the state.
    WrongState = "wrong_state", 409, "That does not fit the state", "look at the state with `sendense-ctl job show`";
    /// It was completed with another token.
    TokenConflict = "change_id_conflict", 409, "The disk was completed with another change token", "look at the disk's change_id with `sendense-ctl backup show`";
    /// Somebody else is writing this disk.
    Locked = "locked", 409, "Another job holds it", "wait for that job, or cancel it";
    /// It is being read, mounted or exported.
    Busy = "busy", 409, "It is in use", "end the exports and jobs that use it first";
    /// Held by a retention lock.
    Immutable = "immutable", 409, "It is locked against deletion", "wait until the lock ends";
    /// It ended because somebody asked.
    Cancelled = "cancelled", 409, "The job was cancelled", "start it again";
    /// The body is too long.
    TooLarge = "too_large", 413, "The body is too large", "send long change lists with PUT /backup/{id}/disks/{n}/changes";
    /// Not JSON by its own word.
    UnsupportedMedia = "unsupported_media_type", 415, "The content type is not supported", "send application/json";
    /// Well-formed but not acceptable.
    Invalid = "invalid", 422, "A value is not acceptable", "correct the value that the detail names";
    /// A feature that we refuse by name.
    Unsupported = "unsupported", 422, "That is not supported", "convert it with the tool that made it";
    /// Over a limit; later it may work.
    TooMany = "too_many", 429, "Too many at once", "wait until one of the running jobs has ended";
    /// A fault of ours.
    Internal = "internal", 500, "The daemon made a mistake", "look into the daemon's log for this moment";
    /// Storage failed.
    Storage = "storage_error", 500, "Storage failed", "look into the system log of the daemon's host for failing storage";
    /// Something stored is damaged.
    Damaged = "damaged", 500, "Stored data is damaged", "run `sendense-ctl backup verify`; restore from another point";
    /// The other side of a pull or a restore failed.
    Remote = "remote_error", 502, "The other side failed", "check the source or target that the detail names";
    /// Not now.
    Unavailable = "unavailable", 503, "Not available right now", "try again in a few seconds";
    /// Storage failed in mid-commit.
    InDoubt = "in_doubt", 503, "Whether the restore point was made is not known", "look into the system log for failing storage, then restart the daemon: it finds out";
    /// The mover stayed away too long.
    Idle = "idle", 409, "Nothing came for too long", "start the backup again; limits.idle_seconds says how long is waited";
    /// The daemon ended in the middle of it.
    Interrupted = "interrupted", 503, "The daemon ended in the middle of it", "start the backup again; the points before it are untouched";
    /// No space is left.
    NoSpace = "no_space", 507, "No space is left", "free space in the repository, then start the backup again";
}

impl Code {
    /// From the word on the wire.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == word)
    }

    /// The exit code of the command line for it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Unauthenticated => 5,
            Self::NotFound
            | Self::NoSuchRoute
            | Self::VmNotFound
            | Self::BackupNotFound
            | Self::DiskNotFound
            | Self::RepositoryNotFound => 10,
            Self::Locked => 11,
            Self::NotAllowed => 12,
            Self::Immutable => 13,
            Self::NoSpace => 14,
            Self::Damaged => 15,
            Self::Busy | Self::TooMany | Self::Unavailable => 16,
            _ => 1,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Problem {
    /// The envelope of a code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:sendense:problem:{code}"),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.as_str().to_owned(),
            detail: detail.into(),
            hint: code.hint().to_owned(),
            extra: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_word(code.as_str()), Some(*code));
            assert!(
                Code::ALL[i + 1..]
                    .iter()
                    .all(|c| c.as_str() != code.as_str())
            );
            assert!((400..600).contains(&code.status()));
            assert!(!code.hint().is_empty() && !code.title().is_empty());
        }
    }

    #[test]
    fn the_envelope_has_the_six_members_and_the_extra_ones() {
        let mut p = Problem::new(Code::HasDependents, "backup-a has 1 dependent");
        p.extra.insert("dependents".into(), vec!["backup-b"].into());
        let v = serde_json::to_value(&p).unwrap();
        for member in [
            "type",
            "title",
            "status",
            "code",
            "detail",
            "hint",
            "dependents",
        ] {
            assert!(v.get(member).is_some(), "{member}");
        }
        assert_eq!(v["status"], 409);
        assert_eq!(serde_json::from_value::<Problem>(v).unwrap(), p);
    }
}
