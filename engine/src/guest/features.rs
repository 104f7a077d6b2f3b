//! Feature bits of a superblock that a reader has to know.

use super::{Fault, Result};

/// Refuses what a reader of `format` does not know, by name where it has one.
///
/// # Errors
/// `Unsupported`, with the names, or with the bits where none is known.
pub(super) fn refuse_unknown(
    format: &str,
    bits: u32,
    known: u32,
    names: &[(u32, &str)],
) -> Result<()> {
    let unknown = bits & !known;
    if unknown == 0 {
        return Ok(());
    }
    let named = names.iter().filter(|(bit, _)| unknown & bit != 0);
    let named: Vec<&str> = named.map(|(_, name)| *name).collect();
    let named = match named.is_empty() {
        true => format!("bits {unknown:#x}"),
        false => named.join(", "),
    };
    Err(Fault::unsupported(format!(
        "{format} with features that are not read: {named}"
    )))
}
