//! JSON that carries its own checksum: `"crc32": "0a1b2c3d"` is the last member, and the CRC-32 is
//! that of the whole text with those eight digits taken as zeroes. Any tool can read it; any
//! change to it, a blank included, is noticed.
//!
//! Each document begins with `format` and `version`. The version rule: a document of a newer
//! version is refused by name. Within one version members may be added; a reader keeps those that
//! it does not know.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// What a kind of document is called, and the newest version that we read and the one we write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) version: u32,
}

/// How a document ends, before and behind the eight digits.
struct Tail {
    before: &'static str,
    behind: &'static str,
}

const DOCUMENT: Tail = Tail {
    before: ",\n  \"crc32\": \"",
    behind: "\"\n}\n",
};
const LINE: Tail = Tail {
    before: ",\"crc32\":\"",
    behind: "\"}\n",
};
const DIGITS: usize = 8;

/// A document, one member per line.
pub(super) fn encode<T: Serialize>(format: Format, body: &T) -> Result<Vec<u8>> {
    let mut text = serde_json::to_string_pretty(&headed(format, body)).map_err(cannot_encode)?;
    // The closing brace on its line: the checksum comes before it.
    text.truncate(text.strip_suffix("\n}").map_or(text.len(), str::len));
    Ok(seal(text, &DOCUMENT))
}

/// A record on one line, for logs that only grow.
pub(super) fn encode_line<T: Serialize>(format: Format, body: &T) -> Result<Vec<u8>> {
    let mut text = serde_json::to_string(&headed(format, body)).map_err(cannot_encode)?;
    text.pop(); // the closing brace
    Ok(seal(text, &LINE))
}

/// Reads a document. `at` names the file in errors.
pub(super) fn decode<T: DeserializeOwned>(format: Format, at: &str, bytes: &[u8]) -> Result<T> {
    open(format, at, bytes, &DOCUMENT)
}

/// Reads one line of a log, its end of line included.
pub(super) fn decode_line<T: DeserializeOwned>(
    format: Format,
    at: &str,
    bytes: &[u8],
) -> Result<T> {
    open(format, at, bytes, &LINE)
}

fn cannot_encode(e: serde_json::Error) -> Error {
    Error::with(ErrorKind::Invalid, "a record cannot be written as JSON", e)
}

/// A body behind the name and version of its format.
#[derive(Serialize)]
struct Headed<'a, T> {
    format: &'static str,
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

fn headed<T: Serialize>(format: Format, body: &T) -> Headed<'_, T> {
    Headed {
        format: format.name,
        version: format.version,
        body,
    }
}

fn seal(mut text: String, tail: &Tail) -> Vec<u8> {
    text.push_str(tail.before);
    let mut crc = crc32fast::Hasher::new();
    crc.update(text.as_bytes());
    crc.update(&[b'0'; DIGITS]);
    crc.update(tail.behind.as_bytes());
    text.push_str(&format!("{:08x}", crc.finalize()));
    text.push_str(tail.behind);
    text.into_bytes()
}

fn open<T: DeserializeOwned>(format: Format, at: &str, bytes: &[u8], tail: &Tail) -> Result<T> {
    let damaged = |why: &str| Error::new(ErrorKind::Damaged, format!("{at} {why}"));
    let sealed = bytes
        .strip_suffix(tail.behind.as_bytes())
        .and_then(|rest| rest.split_last_chunk::<DIGITS>())
        .filter(|(text, _)| text.ends_with(tail.before.as_bytes()));
    let Some((text, digits)) = sealed else {
        return Err(damaged(
            "does not end with its checksum: it is cut off or changed",
        ));
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(text);
    crc.update(&[b'0'; DIGITS]);
    crc.update(tail.behind.as_bytes());
    if format!("{:08x}", crc.finalize()).as_bytes() != digits {
        return Err(damaged(
            "does not match its own checksum: it was changed or is damaged",
        ));
    }
    let not_json = |e| {
        Error::with(
            ErrorKind::Damaged,
            format!("{at} is not what it should be"),
            e,
        )
    };
    let mut value: Value = serde_json::from_slice(bytes).map_err(not_json)?;
    let Some(object) = value.as_object_mut() else {
        return Err(damaged("is not a JSON object"));
    };
    object.remove("crc32");
    let name = object.remove("format");
    if name.as_ref().and_then(Value::as_str) != Some(format.name) {
        return Err(damaged(&format!("is not a {} document", format.name)));
    }
    match object.remove("version").as_ref().and_then(Value::as_u64) {
        Some(v) if v >= 1 && v <= u64::from(format.version) => {}
        Some(v) => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{at} has format version {v}; this Sendense reads up to {}",
                    format.version
                ),
            ));
        }
        None => return Err(damaged("names no version")),
    }
    serde_json::from_value(value).map_err(not_json)
}

/// Moments as RFC 3339 text in UTC.
pub(super) mod moment {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::repository) fn serialize<S: Serializer>(
        at: &Timestamp,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(in crate::repository) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// CRC-32 values as eight hexadecimal digits.
pub(super) mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::repository) fn serialize<S: Serializer>(
        value: &u32,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:08x}"))
    }

    pub(in crate::repository) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const FORMAT: Format = Format {
        name: "sendense-test",
        version: 2,
    };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Body {
        size: u64,
        texts: Vec<Option<String>>,
        #[serde(flatten)]
        unknown: serde_json::Map<String, Value>,
    }

    fn body() -> Body {
        Body {
            size: u64::MAX,
            texts: vec![None, Some("}\n\"crc32\"".into())],
            unknown: [
                ("later".to_owned(), Value::from(7)),
                ("nested".to_owned(), serde_json::json!({"a": {"b": {}}})),
            ]
            .into_iter()
            .collect(),
        }
    }

    #[test]
    fn documents_and_lines_come_back_with_what_is_unknown() {
        let bytes = encode(FORMAT, &body()).unwrap();
        assert_eq!(decode::<Body>(FORMAT, "a", &bytes).unwrap(), body());
        let plain: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(plain["format"], "sendense-test");
        assert_eq!(plain["later"], 7);

        let line = encode_line(FORMAT, &body()).unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(decode_line::<Body>(FORMAT, "a", &line).unwrap(), body());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(FORMAT, &body()).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(decode::<Body>(FORMAT, "a", &bad).is_err(), "byte {at}");
            assert!(
                decode::<Body>(FORMAT, "a", &bytes[..at]).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_newer_version_and_another_format_are_refused_by_name() {
        let newer = Format {
            version: 3,
            ..FORMAT
        };
        let bytes = encode(newer, &body()).unwrap();
        let error = decode::<Body>(FORMAT, "x.json", &bytes).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert_eq!(
            error.to_string(),
            "x.json has format version 3; this Sendense reads up to 2"
        );
        let other = Format {
            name: "other",
            version: 1,
        };
        let bytes = encode(other, &body()).unwrap();
        let error = decode::<Body>(FORMAT, "x.json", &bytes).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged);
    }
}
