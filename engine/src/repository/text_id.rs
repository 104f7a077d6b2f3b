//! The one recipe for identifiers that are text: checked once, at the edge, then trusted.

/// Declares a text newtype whose value passed `$check` (a function from `&str` to
/// `Result<(), String>`; the text completes the phrase "`what` ...").
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a text.
            pub fn parse(text: impl Into<String>) -> $crate::Result<Self> {
                let text = text.into();
                match $check(&text) {
                    Ok(()) => Ok(Self(text)),
                    Err(why) => Err($crate::Error::new(
                        $crate::ErrorKind::Invalid,
                        format!(concat!($what, " {}"), why),
                    )),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::Error;
            fn try_from(text: String) -> $crate::Result<Self> {
                Self::parse(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::Error;
            fn from_str(text: &str) -> $crate::Result<Self> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

pub(super) use text_id;

/// Whether all of `text` is of the characters that every file system, URI and shell leaves alone.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A part of a name made from any text, at most `max` bytes (17 or more) of plain characters. Text
/// that is plain and short stays as it is; any other is made plain, cut, and told apart from its
/// lookalikes by a hash of the original.
pub(super) fn plain_part(text: &str, max: usize) -> String {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && text.len() <= max && is_plain(text) {
        return text.to_owned();
    }
    let mut plain = String::new();
    for c in text.chars() {
        let keep = c.is_ascii_alphanumeric() || (matches!(c, '_' | '.') && !plain.is_empty());
        if keep {
            plain.push(c);
        } else if !plain.is_empty() && !plain.ends_with('-') {
            plain.push('-');
        }
        if plain.len() + 9 >= max {
            break;
        }
    }
    if plain.is_empty() {
        plain.push_str("vm");
    }
    if !plain.ends_with('-') {
        plain.push('-');
    }
    plain.push_str(&hash_base32(text, 8));
    plain
}

/// The first `chars` (at most 25) base32 characters of the text's SHA-256.
pub(super) fn hash_base32(text: &str, chars: usize) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(text.as_bytes());
    base32(&digest, chars)
}

/// The first `chars` base32 characters (lower case, RFC 4648 alphabet) of `bytes`.
pub(super) fn base32(bytes: &[u8], chars: usize) -> String {
    let mut out = String::with_capacity(chars);
    let mut bits: u32 = 0;
    let mut have: u32 = 0;
    for byte in bytes {
        if out.len() == chars {
            break;
        }
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 5 && out.len() < chars {
            have -= 5;
            let five = u8::try_from((bits >> have) & 31).unwrap_or(0);
            out.push(char::from(if five < 26 {
                b'a' + five
            } else {
                b'2' + (five - 26)
            }));
        }
        bits &= (1 << have) - 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc() {
        assert_eq!(base32(b"foobar", 20), "mzxw6ytbo"); // without the one that stands for three bits
        assert_eq!(base32(b"foobar", 4), "mzxw");
    }

    #[test]
    fn plain_names_stay_and_lookalikes_part() {
        assert_eq!(plain_part("pgtest2", 37), "pgtest2");
        assert_eq!(plain_part("web.example_1", 37), "web.example_1");
        let latin = plain_part("pаyroll", 37); // the second letter is Cyrillic
        assert!(latin.starts_with("p-yroll-"), "{latin}");
        for hostile in [
            "",
            "../../etc/passwd",
            "-rf",
            ".hidden",
            "a/b\0c",
            "日本語",
            "x y",
        ] {
            let part = plain_part(hostile, 37);
            assert!(
                is_plain(&part) && part.len() <= 37,
                "{hostile:?} gave {part}"
            );
            assert!(part.starts_with(|c: char| c.is_ascii_alphanumeric()));
            assert!(!part.contains(".."), "{part}");
        }
        let (a, b) = ("x".repeat(60), "x".repeat(61));
        assert_ne!(plain_part(&a, 37), plain_part(&b, 37));
        assert!(plain_part(&a, 37).len() <= 37);
    }
}
