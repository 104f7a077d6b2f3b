//! What a command ends with when it fails: an exit code, one sentence, a hint.

use sendense_nbd::client::ClientError as NbdClientError;

use super::output;
use crate::client::ClientError;
use crate::types::{Code, JobStatus};

/// A failed command.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub code: u8,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// More lines, such as the missing ranges.
    pub notes: Vec<String>,
}

impl CliError {
    /// A failure with this exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            notes: Vec::new(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed system call on `what`.
    pub(super) fn io(what: impl std::fmt::Display, e: &std::io::Error) -> Self {
        let code = match e.kind() {
            std::io::ErrorKind::NotFound => 10,
            std::io::ErrorKind::StorageFull => 14,
            std::io::ErrorKind::PermissionDenied => 12,
            _ => 1,
        };
        Self::new(code, format!("{what}: {e}"))
    }

    /// The failure of a job or backup, as the daemon recorded it.
    pub(super) fn ended(status: JobStatus, code: Option<&str>, message: Option<&str>) -> Self {
        let code = code.and_then(Code::from_word);
        let message = message.map_or_else(|| format!("it is {status}"), str::to_owned);
        let e = Self::new(code.map_or(1, Code::exit_code), message);
        match code {
            Some(code) => e.hint(code.hint()),
            None => e,
        }
    }

    /// Prints it to standard error.
    pub fn print(&self) {
        output::error_line(&format!("error: {}", self.message));
        for note in &self.notes {
            output::error_line(&format!("  {note}"));
        }
        if let Some(hint) = &self.hint {
            output::error_line(&format!("hint: {hint}"));
        }
    }
}

impl From<ClientError> for CliError {
    fn from(e: ClientError) -> Self {
        // The daemon speaks of its fields; here they are options.
        let hint = e
            .hint()
            .replace("with_dependents", "--with-dependents")
            .replace("allow_full", "--allow-full");
        let mut error = Self::new(e.exit_code(), e.to_string()).hint(hint);
        if let ClientError::Refused(p) = &e {
            for name in ["missing", "dependents", "ids"] {
                if let Some(list) = p.extra.get(name).and_then(|v| v.as_array()) {
                    let first = list.iter().take(10).map(|v| format!("{name}: {v}"));
                    error.notes.extend(first);
                    if list.len() > 10 {
                        error
                            .notes
                            .push(format!("{name}: {} more", list.len() - 10));
                    }
                }
            }
        }
        error
    }
}

impl From<NbdClientError> for CliError {
    fn from(e: NbdClientError) -> Self {
        Self::new(1, format!("NBD: {e}")).hint(e.hint())
    }
}
