//! Percent-encoding (RFC 3986), as far as an NBD URI needs it.

use std::fmt;

use super::UriError;

/// Bytes that are shown with everything outside of the allowed set as `%XX`.
pub(super) struct Encoded<'a> {
    bytes: &'a [u8],
    allowed: &'static [u8],
}

impl<'a> Encoded<'a> {
    /// For a path. Everything that some parser might take for more than itself is encoded.
    pub(super) fn path(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            allowed: b"/:@!$'()*,;=",
        }
    }

    /// For a parameter's value.
    pub(super) fn query(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            allowed: b"/:@",
        }
    }

    /// For a host.
    pub(super) fn host(host: &'a str) -> Self {
        Self {
            bytes: host.as_bytes(),
            allowed: b":",
        }
    }
}

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.bytes {
            if byte.is_ascii_alphanumeric()
                || b"-._~".contains(&byte)
                || self.allowed.contains(&byte)
            {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// The bytes that `text` stands for. Characters that should have been encoded stand for
/// themselves, but for spaces and control characters, which come from a broken copy.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => {
                        out.extend(u8::try_from(high * 16 + low).ok());
                    }
                    _ => return Err(UriError::Encoding("a % without two hexadecimal digits")),
                }
            }
            0..=b' ' | 0x7f => {
                return Err(UriError::Encoding("a space or control character"));
            }
            _ => out.push(byte),
        }
    }
    Ok(out)
}
