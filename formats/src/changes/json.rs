//! The JSON form of a changed-extent list. Limits are held *while* it is parsed, so that neither a
//! long text nor a claim in it can make us allocate without bound.

use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::bounded::Bounded;
use super::{ChangeList, bad, past_end};
use crate::error::{Error, ErrorKind, Result};
use crate::range::GuestRange;

/// What the parser may say of a text that it does not take: a value of it can be in there.
const LONGEST_REASON: usize = 300;

/// How much a list may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLimits {
    /// The longest text in bytes. It costs time, not memory.
    pub max_bytes: usize,
    /// The most extents, before merging; each takes 16 bytes of memory, twice that while the list
    /// grows.
    pub max_extents: usize,
}

impl Default for ParseLimits {
    /// 4 Mi extents (64 MiB of memory) in at most 1 GiB of text.
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            max_extents: 4 << 20,
        }
    }
}

pub(super) fn read(json: impl Read, disk_size: u64, limits: ParseLimits) -> Result<ChangeList> {
    let mut text = Bounded::new(json, limits.max_bytes);
    let mut reader = serde_json::Deserializer::from_reader(BufReader::new(&mut text));
    let extents = List {
        disk_size,
        max_extents: limits.max_extents,
    };
    let read = extents
        .deserialize(&mut reader)
        .map_err(|e| ("the change list is not as it should be", e));
    let read = read.and_then(|extents| match reader.end() {
        Ok(()) => Ok(extents),
        Err(e) => Err(("something follows the change list", e)),
    });
    match read {
        Ok(extents) => extents.map(ChangeList::from_unsorted),
        // The parser met the end that `text` gave it, not one of its own.
        Err((_, e)) if e.is_io() => Err(text.stopped().unwrap_or_else(|| bad(reason(&e)))),
        Err((what, e)) => Err(bad(format!("{what}: {}", reason(&e)))),
    }
}

fn reason(e: &serde_json::Error) -> String {
    let said = e.to_string();
    if said.len() <= LONGEST_REASON {
        return said;
    }
    let (line, column) = (e.line(), e.column());
    format!("what stands at line {line} column {column} is of a wrong kind")
}

/// What was read. Text that is no list at all fails the parser instead: it is told of first.
type Extents = Result<Vec<GuestRange>>;

/// The array, or the object that holds it as `changes`. Carries the limits.
#[derive(Clone, Copy)]
struct List {
    disk_size: u64,
    max_extents: usize,
}

impl List {
    fn range(self, n: usize, (offset, length): (u64, u64)) -> Result<GuestRange> {
        if length == 0 {
            return Err(bad(format!("extent {n} at byte {offset} has no length")));
        }
        let range =
            GuestRange::new(offset, length).ok_or_else(|| past_end(u64::MAX, self.disk_size))?;
        if range.end().get() > self.disk_size {
            return Err(past_end(range.end().get(), self.disk_size));
        }
        Ok(range)
    }
}

impl<'de> DeserializeSeed<'de> for List {
    type Value = Extents;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Extents, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List {
    type Value = Extents;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of {\"offset\", \"length\"}, or an object with it as \"changes\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Extents, A::Error> {
        let mut all: Extents = Ok(Vec::new());
        let mut count = 0_usize;
        // On to the end even when it is refused: a syntax error behind that is still one.
        while let Some(extent) = seq.next_element_seed(OneExtent)? {
            if let Ok(ranges) = &mut all {
                match self.range(count, extent) {
                    Ok(range) if count < self.max_extents => ranges.push(range),
                    Ok(_) => {}
                    Err(e) => all = Err(e),
                }
            }
            count = count.saturating_add(1);
            if count > self.max_extents && all.is_ok() {
                all = Err(Error::new(
                    ErrorKind::TooLarge,
                    format!(
                        "the change list names more than {} extents",
                        self.max_extents
                    ),
                ));
            }
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extents, A::Error> {
        let mut changes = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "changes" {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else if changes.is_some() {
                return Err(A::Error::duplicate_field("changes"));
            } else {
                changes = Some(map.next_value_seed(ArrayOnly(self))?);
            }
        }
        changes.ok_or_else(|| A::Error::missing_field("changes"))
    }
}

/// The array alone: `{"changes": {"changes": ...}}` must not nest.
struct ArrayOnly(List);

impl<'de> DeserializeSeed<'de> for ArrayOnly {
    type Value = Extents;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Extents, D::Error> {
        d.deserialize_seq(self.0)
    }
}

struct OneExtent;

impl<'de> DeserializeSeed<'de> for OneExtent {
    type Value = (u64, u64);

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(u64, u64), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneExtent {
    type Value = (u64, u64);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"offset\" and \"length\" in bytes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(u64, u64), A::Error> {
        let (mut offset, mut length) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            let slot: (&mut Option<u64>, &'static str) = match key.as_str() {
                "offset" => (&mut offset, "offset"),
                "length" => (&mut length, "length"),
                _ => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
            };
            if slot.0.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field(slot.1));
            }
        }
        let offset = offset.ok_or_else(|| A::Error::missing_field("offset"))?;
        let length = length.ok_or_else(|| A::Error::missing_field("length"))?;
        Ok((offset, length))
    }
}
