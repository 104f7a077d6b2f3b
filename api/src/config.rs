//! What the daemon is told: a TOML file, and flags above it.
//!
//! Everything is checked before anything is opened; an error names the key and the value.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The configuration file, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// Where HTTP listens.
    pub listen: Option<String>,
    /// Where NBD listens.
    pub nbd_listen: Option<String>,
    /// Allow listeners without TLS on addresses that others can reach.
    pub insecure_listen: bool,
    /// What the daemon may read.
    pub sources: Allow,
    /// What the daemon may write.
    pub targets: Allow,
    /// The data plane.
    pub nbd: Nbd,
    /// Limits.
    pub limits: Limits,
}

/// An allow-list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Absolute directories for `file:`, and NBD URIs (`nbd://host:port` for every export there)
    /// for `nbd:`. Empty: nothing.
    pub allow: Vec<String>,
}

/// The data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nbd {
    /// A file of declared exports in nbd-server's own syntax.
    pub exports: Option<PathBuf>,
    /// A directory with `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, read again by a reload
    /// of the exports; TLS is then required on the TCP listener.
    pub tls_dir: Option<PathBuf>,
    /// Demand client certificates of that CA. A declared export is then open only to those whom
    /// a rule names; the exports of backups and restores carry their right in their name.
    pub tls_verify_peer: bool,
    /// Who may open which declared exports.
    pub rules: Vec<NbdRule>,
    /// Threads that move bytes.
    pub threads: Option<usize>,
}

/// One rule: a certificate's name, and what it opens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbdRule {
    /// The certificate's subject, common name, or one of its DNS, URI or e-mail names; exactly.
    pub subject: String,
    /// Names of declared exports; a `*` at the end stands for anything.
    pub exports: Vec<String>,
}

/// Limits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Backups that run at once.
    pub running_backups: usize,
    /// Seconds that a backup may wait for its mover before it fails; 0 for ever.
    pub idle_seconds: u64,
    /// The longest JSON body.
    pub body_bytes: usize,
    /// The longest change list in bytes. It is parsed as it arrives: this bounds time, not memory.
    pub changes_bytes: usize,
    /// Seconds that a request may take, waiting included.
    pub request_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running_backups: 64,
            idle_seconds: 24 * 3600,
            body_bytes: 4 << 20,
            changes_bytes: 1 << 30,
            request_seconds: 90,
        }
    }
}

/// What the flags say; each wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--nbd-listen`.
    pub nbd_listen: Option<String>,
    /// `--insecure-listen`.
    pub insecure_listen: bool,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that the daemon keeps.
    pub data_dir: PathBuf,
    /// Where HTTP listens.
    pub listen: SocketAddr,
    /// Where NBD listens.
    pub nbd_listen: SocketAddr,
    /// Listeners without TLS may stand where others can reach them.
    pub insecure_listen: bool,
    /// What pulls may read.
    pub sources: Allow,
    /// What restores may write.
    pub targets: Allow,
    /// The data plane.
    pub nbd: Nbd,
    /// Limits.
    pub limits: Limits,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {path} is not valid: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("{key} = {value:?}: {why}")]
    Value {
        /// The key or flag.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

fn value(key: &'static str, value: impl ToString, why: impl ToString) -> ConfigError {
    ConfigError::Value {
        key,
        value: value.to_string(),
        why: why.to_string(),
    }
}

impl File {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }
}

impl Config {
    /// Where HTTP listens unless told otherwise.
    pub const DEFAULT_LISTEN: &'static str = "127.0.0.1:8082";
    /// Where NBD listens unless told otherwise.
    pub const DEFAULT_NBD_LISTEN: &'static str = "127.0.0.1:10809";

    /// Puts file and flags together and checks them.
    pub fn new(file: File, flags: Flags, default_data_dir: PathBuf) -> Result<Self, ConfigError> {
        let insecure = file.insecure_listen || flags.insecure_listen;
        let data_dir = flags.data_dir.or(file.data_dir).unwrap_or(default_data_dir);
        let data_dir =
            std::path::absolute(&data_dir).map_err(|e| value("data_dir", data_dir.display(), e))?;
        if data_dir.to_str().is_none() {
            return Err(value("data_dir", data_dir.display(), "must be UTF-8"));
        }
        let listen = flags.listen.or(file.listen);
        let listen = address("listen", listen.as_deref().unwrap_or(Self::DEFAULT_LISTEN))?;
        let nbd_listen = flags.nbd_listen.or(file.nbd_listen);
        let nbd_listen = address(
            "nbd_listen",
            nbd_listen.as_deref().unwrap_or(Self::DEFAULT_NBD_LISTEN),
        )?;
        const OPEN: &str = "others can reach this address and there is no TLS on it: \
                            choose a loopback address, or pass --insecure-listen";
        if !insecure && !listen.ip().is_loopback() {
            return Err(value("listen", listen, OPEN));
        }
        if !insecure && !nbd_listen.ip().is_loopback() && file.nbd.tls_dir.is_none() {
            return Err(value(
                "nbd_listen",
                nbd_listen,
                format!("{OPEN}, or set nbd.tls_dir (`sendensed tls init` makes one)"),
            ));
        }
        check_allow("sources.allow", &file.sources)?;
        check_allow("targets.allow", &file.targets)?;
        if file.nbd.tls_verify_peer && file.nbd.tls_dir.is_none() {
            return Err(value("nbd.tls_verify_peer", true, "needs nbd.tls_dir"));
        }
        if !file.nbd.rules.is_empty() && !file.nbd.tls_verify_peer {
            return Err(value(
                "nbd.rules",
                file.nbd.rules.len(),
                "without nbd.tls_verify_peer nobody shows a certificate",
            ));
        }
        if let Some(n) = file.nbd.threads
            && !(1..=256).contains(&n)
        {
            return Err(value("nbd.threads", n, "must be 1 to 256"));
        }
        check_limits(&file.limits)?;
        Ok(Self {
            data_dir,
            listen,
            nbd_listen,
            insecure_listen: insecure,
            sources: file.sources,
            targets: file.targets,
            nbd: file.nbd,
            limits: file.limits,
        })
    }

    /// The catalog.
    pub fn catalog(&self) -> PathBuf {
        self.data_dir.join("catalog.db")
    }

    /// The first admin token.
    pub fn admin_token(&self) -> PathBuf {
        self.data_dir.join("admin.token")
    }

    /// The NBD unix socket.
    pub fn nbd_socket(&self) -> PathBuf {
        self.data_dir.join("nbd.sock")
    }

    /// The default repository.
    pub fn local_repository(&self) -> PathBuf {
        self.data_dir.join("backups")
    }
}

fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.to_socket_addrs()
        .map_err(|e| value(key, text, format!("is no HOST:PORT: {e}")))?
        .next()
        .ok_or_else(|| value(key, text, "the name has no address"))
}

fn check_allow(key: &'static str, list: &Allow) -> Result<(), ConfigError> {
    for entry in &list.allow {
        let is_uri = entry.starts_with("nbd://")
            || entry.starts_with("nbds://")
            || entry.starts_with("nbd+unix://")
            || entry.starts_with("nbds+unix://");
        if !is_uri && !Path::new(entry).is_absolute() {
            return Err(value(
                key,
                entry,
                "must be an absolute directory or an NBD URI",
            ));
        }
        if Path::new(entry)
            .components()
            .any(|c| c == std::path::Component::ParentDir)
        {
            return Err(value(key, entry, "must not contain `..`"));
        }
    }
    Ok(())
}

fn check_limits(l: &Limits) -> Result<(), ConfigError> {
    if l.running_backups == 0 {
        return Err(value("limits.running_backups", 0, "must be at least 1"));
    }
    if !(1024..=1 << 30).contains(&l.body_bytes) {
        return Err(value(
            "limits.body_bytes",
            l.body_bytes,
            "must be 1 KiB to 1 GiB",
        ));
    }
    if !(1024..=1 << 32).contains(&l.changes_bytes) {
        return Err(value(
            "limits.changes_bytes",
            l.changes_bytes,
            "must be 1 KiB to 4 GiB",
        ));
    }
    if !(5..=3600).contains(&l.request_seconds) {
        return Err(value(
            "limits.request_seconds",
            l.request_seconds,
            "must be 5 to 3600",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, flags: Flags) -> Result<Config, String> {
        let file = toml::from_str(text).map_err(|e| e.to_string())?;
        Config::new(file, flags, "/var/lib/sendense".into()).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_at_all_is_a_loopback_daemon_that_reads_no_path() {
        let c = config("", Flags::default()).unwrap();
        assert_eq!(c.listen.to_string(), "127.0.0.1:8082");
        assert_eq!(c.nbd_listen.to_string(), "127.0.0.1:10809");
        assert_eq!(c.nbd_socket(), Path::new("/var/lib/sendense/nbd.sock"));
        assert!(c.sources.allow.is_empty() && c.targets.allow.is_empty());
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags {
            listen: Some("127.0.0.1:0".into()),
            data_dir: Some("/tmp/x".into()),
            ..Flags::default()
        };
        let c = config("listen = '127.0.0.1:99'\ndata_dir = '/y'", flags).unwrap();
        assert_eq!(c.listen.port(), 0);
        assert_eq!(c.data_dir, Path::new("/tmp/x"));
    }

    #[test]
    fn open_listeners_need_a_word() {
        let e = config("listen = '0.0.0.0:8082'", Flags::default()).unwrap_err();
        assert!(e.contains("--insecure-listen"), "{e}");
        assert!(config("nbd_listen = '0.0.0.0:10809'", Flags::default()).is_err());
        let open = "listen = '0.0.0.0:8082'\ninsecure_listen = true";
        assert!(config(open, Flags::default()).is_ok());
        let tls = "nbd_listen = '0.0.0.0:10809'\n[nbd]\ntls_dir = '/etc/pki'";
        assert!(config(tls, Flags::default()).is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, word) in [
            ("colour = 'red'", "colour"),
            ("listen = 'nowhere'", "listen"),
            ("[sources]\nallow = ['relative/dir']", "sources.allow"),
            ("[targets]\nallow = ['/srv/../etc']", "targets.allow"),
            ("[limits]\nrunning_backups = 0", "running_backups"),
            ("[limits]\nrequest_seconds = 1", "request_seconds"),
            ("[nbd]\nthreads = 0", "threads"),
            ("[nbd]\ntls_verify_peer = true", "tls_dir"),
            (
                "[[nbd.rules]]\nsubject = 'a'\nexports = ['*']",
                "tls_verify_peer",
            ),
        ] {
            let e = config(text, Flags::default()).unwrap_err();
            assert!(e.contains(word), "{text}: {e}");
        }
    }
}
