//! The data directory: its owner's alone, and one daemon's at a time.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use sendense_engine::storage::local::create_path;

/// Held as long as the daemon runs.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the descriptor holds the lock")] File);

/// Makes the directory where it is missing and locks it.
pub(super) fn open(path: &Path) -> anyhow::Result<Lock> {
    // The group may reach the socket, nobody else anything.
    create_path(path, 0o750)
        .with_context(|| format!("the data directory {} cannot be made", path.display()))?;
    let name = path.join("lock");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .with_context(|| format!("{} cannot be opened", name.display()))?;
    if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if e == rustix::io::Errno::WOULDBLOCK {
            anyhow::bail!(
                "another sendensed runs on {}: stop it first, or choose another --data-dir",
                path.display()
            );
        }
        return Err(e).with_context(|| format!("{} cannot be locked", name.display()));
    }
    // The catalog holds names and hashes: it is nobody's to read. SQLite keeps a file's mode.
    let catalog = path.join("catalog.db");
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&catalog)
        .with_context(|| format!("{} cannot be written", catalog.display()))?;
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = open(&path).unwrap();
        let e = open(&path).unwrap_err().to_string();
        assert!(e.contains("another sendensed"), "{e}");
        drop(first);
        open(&path).unwrap();
    }
}
