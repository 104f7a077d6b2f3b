//! NBD URIs: where a server is and which export is meant (NBD project, doc/uri.md).
//!
//! ```text
//! nbd://host[:port]/export                    TCP                 nbds://...       with TLS
//! nbd+unix:///export?socket=/run/nbd.sock     unix socket         nbds+unix://...  with TLS
//! ```
//!
//! The export name is the percent-decoded path without its first `/`: a name may hold anything but
//! NUL. What is not understood is refused by name and never skipped: a skipped TLS parameter would
//! be a downgrade. The name may be a secret capability, so `Debug` leaves it out.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::wire::{DEFAULT_PORT, MAX_STRING};

mod percent;
#[cfg(test)]
mod tests;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NbdAddress {
    /// TCP.
    Tcp {
        /// A name or an address; an IPv6 address stands here without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket, by its path.
    Unix(PathBuf),
}

/// An export of a server.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: NbdAddress,
    /// The export's name; may be empty, which servers take for their default export.
    pub export: String,
    /// TLS is required (`nbds`). Never a wish: without TLS there is no connection.
    pub tls: bool,
    /// The directory with `ca-cert.pem` and, for client certificates, `client-cert.pem` and
    /// `client-key.pem`.
    pub tls_certificates: Option<PathBuf>,
    /// The name that the server's certificate must be for, where it is not the host's.
    pub tls_hostname: Option<String>,
}

/// Why a text is no NBD URI that we can use.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Not one of the four schemes.
    #[error("the scheme must be nbd, nbds, nbd+unix or nbds+unix")]
    Scheme,
    /// A host or port that cannot be.
    #[error("no usable host and port in it: {0}")]
    Authority(&'static str),
    /// A `%` without two hexadecimal digits behind it, or a character that must be encoded.
    #[error("wrongly encoded: {0}")]
    Encoding(&'static str),
    /// An export name that NBD cannot carry.
    #[error("the export name {0}")]
    Export(&'static str),
    /// A unix scheme without `socket`, or the reverse.
    #[error("{0}")]
    Socket(&'static str),
    /// A parameter that we do not know or do not support.
    #[error("the parameter `{name}` {why}")]
    Parameter {
        /// Its name.
        name: String,
        /// Why it is refused.
        why: &'static str,
    },
}

impl UriError {
    /// How the text should look.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Socket(_) => "write nbd+unix:///EXPORT?socket=/path/to/socket",
            Self::Parameter { .. } => {
                "known are socket, tls-certificates, tls-hostname, tls-type=x509 and \
                 tls-verify-peer=1"
            }
            Self::Encoding(_) => "write other characters than letters and digits as %XX",
            _ => "write nbd://HOST[:PORT]/EXPORT, or nbds:// for TLS",
        }
    }
}

impl NbdUri {
    /// An export over TCP, without TLS.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self::new(
            NbdAddress::Tcp {
                host: host.into(),
                port,
            },
            export.into(),
        )
    }

    /// An export over a unix socket, without TLS.
    pub fn unix(socket: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self::new(NbdAddress::Unix(socket.into()), export.into())
    }

    /// The same with TLS required, by the certificates of a directory where one is named.
    #[must_use]
    pub fn with_tls(mut self, certificates: Option<PathBuf>) -> Self {
        self.tls = true;
        self.tls_certificates = certificates;
        self
    }

    /// The socket's path, on a unix socket.
    pub fn socket(&self) -> Option<&Path> {
        match &self.address {
            NbdAddress::Unix(path) => Some(path),
            NbdAddress::Tcp { .. } => None,
        }
    }

    fn new(address: NbdAddress, export: String) -> Self {
        Self {
            address,
            export,
            tls: false,
            tls_certificates: None,
            tls_hostname: None,
        }
    }

    /// The URI with another text for the export: `None` hides it.
    fn write(&self, f: &mut fmt::Formatter<'_>, export: Option<&str>) -> fmt::Result {
        f.write_str(match (&self.address, self.tls) {
            (NbdAddress::Tcp { .. }, false) => "nbd://",
            (NbdAddress::Tcp { .. }, true) => "nbds://",
            (NbdAddress::Unix(_), false) => "nbd+unix://",
            (NbdAddress::Unix(_), true) => "nbds+unix://",
        })?;
        if let NbdAddress::Tcp { host, port } = &self.address {
            if host.contains(':') {
                write!(f, "[{}]", percent::Encoded::host(host))?;
            } else {
                write!(f, "{}", percent::Encoded::host(host))?;
            }
            if *port != DEFAULT_PORT {
                write!(f, ":{port}")?;
            }
        }
        match export {
            Some(name) => write!(f, "/{}", percent::Encoded::path(name.as_bytes()))?,
            None => f.write_str("/(hidden)")?,
        }
        let mut lead = '?';
        let mut parameter = |f: &mut fmt::Formatter<'_>, name: &str, value: &[u8]| {
            let lead = std::mem::replace(&mut lead, '&');
            write!(f, "{lead}{name}={}", percent::Encoded::query(value))
        };
        if let NbdAddress::Unix(path) = &self.address {
            parameter(f, "socket", path.as_os_str().as_bytes())?;
        }
        if let Some(dir) = &self.tls_certificates {
            parameter(f, "tls-certificates", dir.as_os_str().as_bytes())?;
        }
        if let Some(name) = &self.tls_hostname {
            parameter(f, "tls-hostname", name.as_bytes())?;
        }
        Ok(())
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Some(&self.export))
    }
}

impl fmt::Debug for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
        let (unix, tls) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (false, true),
            "nbd+unix" => (true, false),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme),
        };
        if rest.contains('#') {
            return Err(UriError::Encoding("a # must be written as %23"));
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        let parameters = Parameters::parse(query, tls)?;
        let address = match (unix, parameters.socket) {
            (true, Some(_)) if !authority.is_empty() => {
                return Err(UriError::Socket("a unix socket has no host"));
            }
            (true, Some(path)) => NbdAddress::Unix(path),
            (true, None) => return Err(UriError::Socket("a unix scheme needs ?socket=PATH")),
            (false, Some(_)) => {
                return Err(UriError::Socket(
                    "?socket= belongs to nbd+unix or nbds+unix",
                ));
            }
            (false, None) => tcp_address(authority)?,
        };
        Ok(Self {
            address,
            export: export_name(path)?,
            tls,
            tls_certificates: parameters.certificates,
            tls_hostname: parameters.hostname,
        })
    }
}

fn export_name(path: &str) -> Result<String, UriError> {
    let name = String::from_utf8(percent::decode(path)?)
        .map_err(|_| UriError::Export("is not valid UTF-8"))?;
    if name.contains('\0') {
        return Err(UriError::Export("must not hold a NUL"));
    }
    if name.len() > MAX_STRING {
        return Err(UriError::Export("is longer than 4096 bytes"));
    }
    Ok(name)
}

fn tcp_address(authority: &str) -> Result<NbdAddress, UriError> {
    if authority.contains('@') {
        return Err(UriError::Authority("user names are not supported"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .ok_or(UriError::Authority("a [ without its ]"))?;
            let port = match rest {
                "" => None,
                _ => Some(
                    rest.strip_prefix(':')
                        .ok_or(UriError::Authority("something other than a port behind ]"))?,
                ),
            };
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(UriError::Authority("an IPv6 address stands in [ ]"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = String::from_utf8(percent::decode(host)?)
        .map_err(|_| UriError::Authority("the host is not valid UTF-8"))?;
    if host.is_empty() {
        return Err(UriError::Authority("the host is missing"));
    }
    let of_a_host = |c: char| c.is_alphanumeric() || "-._~:%".contains(c);
    if !host.chars().all(of_a_host) {
        return Err(UriError::Authority("a host does not hold such characters"));
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .map_err(|_| UriError::Authority("a port is at most 65535"))?,
        Some(_) => return Err(UriError::Authority("a port is a number")),
    };
    Ok(NbdAddress::Tcp { host, port })
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    certificates: Option<PathBuf>,
    hostname: Option<String>,
}

impl Parameters {
    fn parse(query: &str, tls: bool) -> Result<Self, UriError> {
        let mut found = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let refuse = |why| UriError::Parameter {
                name: name.chars().take(64).collect(),
                why,
            };
            if name.starts_with("tls-") && !tls {
                return Err(refuse("needs an nbds scheme"));
            }
            let bytes = percent::decode(value)?;
            let doubled = match name {
                "socket" => found.socket.replace(path(bytes, refuse)?).is_some(),
                "tls-certificates" => found.certificates.replace(path(bytes, refuse)?).is_some(),
                "tls-hostname" => {
                    let host = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))?;
                    if host.is_empty() {
                        return Err(refuse("is empty"));
                    }
                    found.hostname.replace(host).is_some()
                }
                "tls-type" if value == "x509" => false,
                "tls-type" => return Err(refuse("can only be x509")),
                "tls-verify-peer" if matches!(value, "1" | "true" | "yes") => false,
                "tls-verify-peer" => {
                    return Err(refuse("cannot be off: the server is always verified"));
                }
                "tls-psk-file" => return Err(refuse("is not supported: TLS is by x509 only")),
                _ => return Err(refuse("is not known")),
            };
            if doubled {
                return Err(refuse("is given twice"));
            }
        }
        Ok(found)
    }
}

fn path(bytes: Vec<u8>, refuse: impl Fn(&'static str) -> UriError) -> Result<PathBuf, UriError> {
    use std::os::unix::ffi::OsStringExt;

    if bytes.is_empty() {
        return Err(refuse("is empty"));
    }
    if bytes.contains(&0) {
        return Err(refuse("holds a NUL; abstract sockets are not supported"));
    }
    Ok(std::ffi::OsString::from_vec(bytes).into())
}
