//! The identifier of a volume group, physical or logical volume.

use std::fmt;

/// 32 characters; written with dashes after the 6th, 10th, 14th, 18th, 22nd and 26th.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 32]);

impl Id {
    /// From its 32 characters. `None` for others than letters, digits, `!` and `#`.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let sane = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'!' | b'#');
        bytes.iter().all(sane).then_some(Self(bytes))
    }

    /// From its text with dashes, wherever they stand.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 64 {
            return None;
        }
        let bytes: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        Self::from_bytes(bytes.try_into().ok()?)
    }

    /// The first six characters: enough to tell two apart for people.
    pub fn short(&self) -> String {
        self.0.iter().take(6).map(|b| char::from(*b)).collect()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            if matches!(n, 6 | 10 | 14 | 18 | 22 | 26) {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(*byte))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_name_the_same() {
        let text = "AbCdEf-0123-4567-89ab-cdef-ghij-klmnop";
        let id = Id::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(
            Id::from_bytes(*b"AbCdEf0123456789abcdefghijklmnop"),
            Some(id)
        );
        assert_eq!(id.short(), "AbCdEf");
        assert_eq!(Id::parse("AbCdEf"), None);
        assert_eq!(Id::parse(&"-".repeat(100)), None);
        assert_eq!(Id::from_bytes([b'/'; 32]), None);
    }
}
