//! Printing: tables for people, the API's objects for programs. The only place that prints.
//!
//! Rendering is pure (an object in, text out) and sits with its noun; what goes out is cleared of
//! control characters, since names come from elsewhere.
#![expect(clippy::print_stderr, reason = "this is where the command line speaks")]

mod backup;
mod chain;
mod job;
mod server;
#[cfg(test)]
mod tests;

use std::io::{BufRead, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{CliError, Context, Result};

pub(super) use backup::{backup, backups, deletion};
pub(super) use chain::chains;
pub(super) use job::{job, jobs};
pub(super) use server::{
    declared, health, quarantine, reload, repositories, restore_export, restore_exports, vm, vms,
};

/// Whether this process is root's: decides the default data directory.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Whether somebody watches.
pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && is_terminal()
}

/// Prints the API's own object, or what `render` makes of it for people.
pub(super) fn show<T: Serialize>(
    c: &Context,
    value: &T,
    render: impl FnOnce(&T) -> String,
) -> Result<()> {
    if c.json {
        json(value)
    } else {
        line(&render(value))
    }
}

/// The API's own object.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::new(1, format!("the answer cannot be printed: {e}")))?;
    out(&text)
}

/// A line of text, or several.
pub(super) fn line(text: &str) -> Result<()> {
    out(&plain(text))
}

pub(super) fn error_line(text: &str) {
    eprintln!("{}", plain(text));
}

fn out(text: &str) -> Result<()> {
    let mut to = std::io::stdout().lock();
    match writeln!(to, "{}", text.trim_end()).and_then(|()| to.flush()) {
        // A closed pipe is the reader's way of saying "enough".
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::io("standard output cannot be written", &e))
        }
        _ => Ok(()),
    }
}

/// The text without what would steer a terminal.
fn plain(text: &str) -> String {
    let visible = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(visible).collect()
}

/// Asks on the terminal; without one the answer is no, and says how to say yes.
pub(super) fn confirm(question: &str) -> Result<()> {
    if !can_ask() {
        return Err(CliError::new(64, "nobody is there to ask").hint("add --yes to do it"));
    }
    eprint!("{} [y/N] ", plain(question));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(CliError::new(130, "nothing was done")),
    }
}

/// Bytes for people.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut rest = n;
    let mut tenths = 0;
    let mut unit = "B";
    for next in UNITS {
        if rest < 1024 {
            break;
        }
        tenths = (rest % 1024) * 10 / 1024;
        rest /= 1024;
        unit = next;
    }
    if unit == "B" {
        format!("{rest} B")
    } else {
        format!("{rest}.{tenths} {unit}")
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().map(|h| h.to_ascii_uppercase()));
    if !std::io::stdout().is_terminal() {
        // Lines of a pipe are never broken.
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}
