//! Names beneath a directory: what is a valid one.

use std::io;

/// The longest path that is accepted.
const MAX_PATH: usize = 4000;

/// The components of a relative path; `""` has none and stands for the root. Empty, `.` and `..`
/// components, NUL bytes and absolute paths are `InvalidInput`.
pub(super) fn components(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    if path.len() > MAX_PATH {
        return Err(refuse(path, "it is too long"));
    }
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts {
        match *part {
            "" => return Err(refuse(path, "it is absolute or has an empty component")),
            "." | ".." => return Err(refuse(path, "it leaves the directory")),
            part if part.contains('\0') => return Err(refuse(path, "it holds a NUL byte")),
            _ => {}
        }
    }
    Ok(parts)
}

/// A path split into its directory and its last component; the root has none and is refused.
pub(super) fn parent_and_name(path: &str) -> io::Result<(&str, &str)> {
    components(path)?;
    match path.rsplit_once('/') {
        Some((parent, name)) => Ok((parent, name)),
        None if path.is_empty() => Err(refuse(path, "it names the root")),
        None => Ok(("", path)),
    }
}

fn refuse(path: &str, why: &str) -> io::Error {
    let shown: String = path.chars().take(200).collect();
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the name {shown:?} is refused: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for bad in [
            "/", "/etc", "a//b", "a/", ".", "..", "a/../b", "a/./b", "a\0b",
        ] {
            assert_eq!(
                components(bad).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{bad:?}"
            );
        }
        assert!(components(&"a/".repeat(3000)).is_err());
        assert_eq!(components("a/b").unwrap(), ["a", "b"]);
        assert_eq!(components("").unwrap(), [""; 0]);
        assert_eq!(components("..a/b..").unwrap(), ["..a", "b.."]);
    }

    #[test]
    fn a_path_splits_into_directory_and_name() {
        assert_eq!(parent_and_name("a/b/c").unwrap(), ("a/b", "c"));
        assert_eq!(parent_and_name("c").unwrap(), ("", "c"));
        assert!(parent_and_name("").is_err());
    }
}
