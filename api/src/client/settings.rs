//! Where the daemon and the token are, unless somebody says otherwise.

use std::path::{Path, PathBuf};

/// Where the daemon listens by default.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8082";

/// The default data directory: `/var/lib/sendense` as root, else under the user's data home.
/// `home` and `data_home` are `$HOME` and `$XDG_DATA_HOME`.
pub fn default_data_dir(is_root: bool, home: Option<&Path>, data_home: Option<&Path>) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/lib/sendense");
    }
    match (data_home, home) {
        (Some(dir), _) if dir.is_absolute() => dir.join("sendense"),
        (_, Some(home)) => home.join(".local/share/sendense"),
        _ => PathBuf::from("sendense-data"),
    }
}

/// The first of these files that holds a token, and the token: the one that is named (which must
/// be there), else the user's own, else the default data directory's.
pub fn find_token(
    named: Option<&Path>,
    config_home: Option<&Path>,
    data_dir: &Path,
) -> std::io::Result<Option<String>> {
    if let Some(path) = named {
        return read(path).map(Some);
    }
    let own = config_home.map(|dir| dir.join("sendense/token"));
    for path in own.into_iter().chain([data_dir.join("admin.token")]) {
        match read(&path) {
            Ok(token) => return Ok(Some(token)),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                ) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> std::io::Result<String> {
    let at = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(at)?;
    let token = text.trim();
    if token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("{} does not hold one token", path.display()),
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_depends_on_who_asks() {
        let home = Path::new("/home/a");
        assert_eq!(
            default_data_dir(true, Some(home), None),
            Path::new("/var/lib/sendense")
        );
        assert_eq!(
            default_data_dir(false, Some(home), None),
            Path::new("/home/a/.local/share/sendense")
        );
        assert_eq!(
            default_data_dir(false, Some(home), Some(Path::new("/data"))),
            Path::new("/data/sendense")
        );
    }

    #[test]
    fn the_named_token_wins_and_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("named");
        assert!(find_token(Some(&named), None, dir.path()).is_err());
        assert_eq!(find_token(None, None, dir.path()).unwrap(), None);
        std::fs::write(dir.path().join("admin.token"), "third\n").unwrap();
        let found = |n: Option<&Path>| find_token(n, Some(dir.path()), dir.path()).unwrap();
        assert_eq!(found(None).as_deref(), Some("third"));
        std::fs::create_dir(dir.path().join("sendense")).unwrap();
        std::fs::write(dir.path().join("sendense/token"), "second").unwrap();
        assert_eq!(found(None).as_deref(), Some("second"));
        std::fs::write(&named, "first").unwrap();
        assert_eq!(found(Some(&named)).as_deref(), Some("first"));
        std::fs::write(&named, "two words").unwrap();
        assert!(find_token(Some(&named), None, dir.path()).is_err());
    }
}
