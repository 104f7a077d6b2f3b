//! Moves disks between files of this machine and NBD exports of a daemon: what `backup push` and
//! `backup restore` do on the caller's side.
//!
//! Holes and zero blocks travel as WRITE_ZEROES and come back as holes. Several requests are in
//! flight on several connections. Nothing is decided here about what a backup is.

mod fetch;
mod local;
mod push;
mod zero;

use std::sync::Arc;

use sendense_nbd::client::{ClientError, ClientPool, ConnectOptions};
use sendense_nbd::uri::NbdUri;

pub use fetch::{Fetch, fetch};
pub use push::{Push, push};
pub(crate) use push::{image_warning, size_of};

/// Bytes of one request.
const CHUNK: u64 = 1 << 20;
/// Requests in flight per disk.
const IN_FLIGHT: usize = 24;

/// Told how many more bytes are dealt with.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// A disk that could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The file of this machine.
    #[error("{what}: {source}")]
    File {
        /// Which, and what was done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The NBD side.
    #[error("NBD: {0}")]
    Nbd(#[from] ClientError),
    /// Both sides are fine but do not fit.
    #[error("{0}")]
    Misfit(String),
}

impl MoveError {
    fn file(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::File {
            what: what.into(),
            source,
        }
    }
}

/// Connects to the first of these that can be reached.
async fn connect(
    uris: &[String],
    connections: usize,
    options: &ConnectOptions,
) -> Result<ClientPool, MoveError> {
    let mut last = MoveError::Misfit("the daemon named no place to connect to".to_owned());
    for text in uris {
        let uri: NbdUri = match text.parse() {
            Ok(uri) => uri,
            Err(e) => {
                last = MoveError::Misfit(format!("the daemon named an unusable URI: {e}"));
                continue;
            }
        };
        // A socket path of another machine means nothing here.
        if uri.socket().is_some_and(|path| !path.exists()) {
            continue;
        }
        match ClientPool::connect(&uri, connections, options).await {
            Ok(pool) => return Ok(pool),
            Err(e) => last = e.into(),
        }
    }
    Err(last)
}

async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, MoveError> + Send + 'static,
) -> Result<T, MoveError> {
    match tokio::task::spawn_blocking(what).await {
        Ok(result) => result,
        Err(e) => Err(MoveError::Misfit(format!("a reader or writer ended: {e}"))),
    }
}

#[cfg(test)]
pub(crate) mod tests;
