//! What can go wrong on the way to the daemon and back.

use crate::types::{Code, Problem};

/// A call without a good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no daemon answers at {url}: {why}")]
    NoDaemon {
        /// The address.
        url: String,
        /// What the network said.
        why: String,
    },
    /// The daemon refused, and says why.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// Something answered, but not as it should.
    #[error("{0}")]
    Broken(String),
}

impl ClientError {
    pub(super) fn from_transport(url: &str, e: ureq::Error) -> Self {
        let why = e.to_string();
        match e {
            ureq::Error::Io(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::BadUri(_)
            | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Self::NoDaemon {
                    url: url.to_owned(),
                    why,
                }
            }
            _ => Self::Broken(format!("{url}: {why}")),
        }
    }

    /// The stable code, where the daemon gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(p) => Code::from_word(&p.code),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::NoDaemon { .. } => {
                "start it with `sendensed`, or set SENDENSE_URL to where it listens"
            }
            Self::Refused(p) => &p.hint,
            Self::Broken(_) => "check that SENDENSE_URL names a Sendense daemon of this version",
        }
    }

    /// The exit code of the command line.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoDaemon { .. } => 4,
            Self::Refused(p) => match self.code() {
                Some(code) => code.exit_code(),
                None => exit_code_of_status(p.status),
            },
            Self::Broken(_) => 1,
        }
    }
}

/// For a code that a newer daemon has and we do not know: the status says roughly the same.
const fn exit_code_of_status(status: u16) -> u8 {
    match status {
        401 => 5,
        403 => 12,
        404 | 410 => 10,
        423 => 11,
        429 | 503 => 16,
        507 => 14,
        _ => 1,
    }
}
