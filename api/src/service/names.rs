//! Names that people give. Ids, tokens and export names are the engine's own types.

use super::{Fault, Result};

/// The longest name, in bytes.
const MAX_NAME: usize = 255;

/// Refuses names that no hypervisor has and no terminal should print.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Fault::invalid(format!(
            "{what} has {} bytes; it must have 1 to {MAX_NAME}",
            name.len()
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Fault::invalid(format!("{what} holds control characters")));
    }
    if name.trim() != name {
        return Err(Fault::invalid(format!(
            "{what} begins or ends with a space"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_has_are_refused() {
        for bad in ["", " a", "a ", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(check_name("the name", bad).is_err(), "{bad:?}");
        }
        check_name("the name", "web 1 (old) / Köln").unwrap();
    }
}
