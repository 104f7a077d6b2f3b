//! Where a disk's bytes come from or go to, as far as the daemon itself reaches there: beneath the
//! configured lists, without following links.

use std::path::{Path, PathBuf};

use sendense_engine::ErrorKind;
use sendense_engine::allow::AllowList;
use sendense_nbd::uri::NbdUri;

use crate::config::Allow;
use crate::service::{Fault, Result};
use crate::types::Code;

/// What a `source` or `target` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A mover of somebody else's writes or reads over NBD.
    Push,
    /// A path on the daemon's host.
    File(PathBuf),
    /// A remote disk.
    Nbd(NbdUri),
}

impl Place {
    /// Reads a source or target.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text == "push" {
            return Ok(Self::Push);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(Fault::invalid(format!(
                    "{text:?}: the path must be absolute"
                )));
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        if text.starts_with("nbd") {
            let uri: NbdUri = text.parse().map_err(|e: sendense_nbd::uri::UriError| {
                Fault::invalid(format!("{e}")).hint(e.hint())
            })?;
            return Ok(Self::Nbd(uri));
        }
        Err(Fault::new(
            Code::Unsupported,
            format!("{text:?} is no source or target here"),
        )
        .hint("known are push, file:/PATH and nbd://HOST[:PORT]/EXPORT"))
    }
}

/// The paths of a list; `key` is its name in the configuration.
pub(crate) fn paths(list: &Allow, key: &str) -> Result<AllowList> {
    let paths = list.allow.iter().filter(|e| e.starts_with('/'));
    AllowList::new(paths.map(PathBuf::from)).map_err(|e| Fault::internal(format!("{key}: {e}")))
}

/// What a path outside of the list is answered.
pub(crate) fn refusal(key: &str, path: &Path, e: sendense_engine::Error) -> Fault {
    // The list says "invalid" of what it does not hold; all else is the file system's word.
    if e.kind != ErrorKind::Invalid {
        return e.into();
    }
    Fault::new(
        Code::NotAllowed,
        format!("{} does not lie beneath an entry of {key}", path.display()),
    )
    .hint(format!(
        "add its directory to {key} in the daemon's configuration and restart it"
    ))
}

/// Whether a remote disk may be used: its server is one of the list.
pub(crate) fn check_remote(list: &Allow, key: &str, uri: &NbdUri) -> Result<()> {
    let allowed = list.allow.iter().filter_map(|e| e.parse::<NbdUri>().ok());
    for entry in allowed {
        let same_place = entry.address == uri.address && entry.tls == uri.tls;
        if same_place && (entry.export.is_empty() || entry.export == uri.export) {
            return Ok(());
        }
    }
    Err(Fault::new(
        Code::NotAllowed,
        format!("the NBD server is no entry of {key}"),
    )
    .hint(format!(
        "add nbd://HOST:PORT to {key} in the daemon's configuration and restart it"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_or_refused() {
        assert_eq!(Place::parse("push").unwrap(), Place::Push);
        let file = Place::File("/srv/a.raw".into());
        assert_eq!(Place::parse("file:/srv/a.raw").unwrap(), file);
        assert_eq!(Place::parse("file:///srv/a.raw").unwrap(), file);
        assert!(matches!(
            Place::parse("nbd://h:1/x").unwrap(),
            Place::Nbd(_)
        ));
        for bad in ["", "agent", "file:a.raw", "http://h/x", "nbd://"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_servers_of_the_list_are_reached() {
        let list = Allow {
            allow: vec![
                "/srv".into(),
                "nbd://store:10809".into(),
                "nbd://one/disk".into(),
            ],
        };
        let check = |uri: &str| check_remote(&list, "sources.allow", &uri.parse().unwrap());
        assert!(check("nbd://store/any").is_ok());
        assert!(check("nbd://store:10809/other").is_ok());
        assert!(check("nbd://one/disk").is_ok());
        assert!(check("nbd://one/other").is_err());
        assert!(check("nbd://store:1/any").is_err());
        assert!(check("nbds://store/any").is_err());
        assert!(check("nbd://127.0.0.1/any").is_err());
    }
}
