//! Printing: results to standard output, failures with a hint to standard error.

use std::io::{self, Write};

use sendense_engine::guest::{Fault, FaultKind};
use sendense_engine::{Error, ErrorKind};
use serde::Serialize;

use crate::cli::Output;

/// Why the tool failed.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    hint: &'static str,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self {
            what: what.into(),
            hint,
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        let format = e
            .source
            .as_ref()
            .and_then(|s| s.downcast_ref::<sendense_formats::Error>());
        let hint = match e.kind {
            _ if format.is_some_and(|f| f.kind == sendense_formats::ErrorKind::Denied) => {
                "allow it with --allow-backing PATH, or leave it out with --backing none"
            }
            _ if format.is_some() => e.hint(),
            ErrorKind::Io => "check the path, and the storage that it lies on",
            ErrorKind::NotFound => "check the path",
            ErrorKind::NoSpace => "free space where the new file is to be",
            ErrorKind::Locked => {
                "another process has it open: end that one, or where it is only read, pass -U"
            }
            ErrorKind::Damaged => "run `sendense-image check` on it, or take another copy",
            ErrorKind::Exists => "choose another name, or pass --overwrite",
            ErrorKind::Unsupported | ErrorKind::Invalid => {
                "see `sendense-image help` for what is allowed"
            }
            _ => e.hint(),
        };
        Self::new(e.to_string(), hint)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let hint = match fault.kind {
            FaultKind::Stale => "pass --accept-stale to see it as it stands, with a warning",
            FaultKind::NotFound | FaultKind::WrongType | FaultKind::Invalid => {
                "check the path with `sendense-image files IMAGE... --volume ID`"
            }
            FaultKind::Unsupported => "restore the whole disk, and read it with its own system",
            FaultKind::Io => "check the image, and the storage that it lies on",
            _ => "take another restore point, or restore the whole disk and repair it there",
        };
        Self::new(fault.to_string(), hint)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return Self::new("nobody reads the output", "");
        }
        Self::new(e.to_string(), "check where the output goes")
    }
}

/// Prints a failure.
pub(crate) fn report(output: Output, failure: &Failure) {
    let text = match output {
        Output::Json => {
            serde_json::json!({"error": failure.what, "hint": failure.hint}).to_string()
        }
        Output::Human if failure.hint.is_empty() => {
            format!("sendense-image: {}", failure.what)
        }
        Output::Human => format!("sendense-image: {}\nhint: {}", failure.what, failure.hint),
    };
    // Nothing can be done where the terminal is gone.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(e.to_string(), "report this"))?;
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Prints one line for people.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// Bytes of a stranger's text for people: control characters must not reach the terminal.
pub(crate) fn shown(text: &[u8]) -> String {
    let mut out = String::new();
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// A number of bytes for people: exact, and rounded where that helps.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n;
    let mut rest = 0;
    let mut unit = None;
    for name in UNITS {
        if value < 1024 {
            break;
        }
        rest = value % 1024 * 10 / 1024;
        value /= 1024;
        unit = Some(name);
    }
    match unit {
        None => format!("{n} bytes"),
        Some(unit) => format!("{value}.{rest} {unit} ({n} bytes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, shown};

    #[test]
    fn a_strangers_text_cannot_steer_the_terminal() {
        assert_eq!(shown("ä b".as_bytes()), "ä b");
        assert_eq!(shown(b"a\x1b[2J\n\\\xff"), "a\\u{1b}[2J\\n\\\\\\xff");
    }

    #[test]
    fn sizes_are_exact_and_readable() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1536), "1.5 KiB (1536 bytes)");
        assert_eq!(bytes(u64::MAX), "15.9 EiB (18446744073709551615 bytes)");
    }
}
