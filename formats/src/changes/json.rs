//! The JSON form of a changed-extent list. Limits are held *while* it is parsed, so that neither a
//! long text nor a claim in it can make us allocate without bound.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{ChangeList, bad, past_end};
use crate::error::{Error, ErrorKind, Result};
use crate::range::GuestRange;

/// How much a list may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseLimits {
    /// The longest text in bytes.
    pub max_bytes: usize,
    /// The most extents, before merging.
    pub max_extents: usize,
}

impl Default for ParseLimits {
    /// 4 Mi extents (64 MiB of memory) in at most 256 MiB of text.
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_extents: 4 << 20,
        }
    }
}

pub(super) fn parse(json: &[u8], disk_size: u64, limits: ParseLimits) -> Result<ChangeList> {
    if json.len() > limits.max_bytes {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the change list is {} bytes long, more than the {} allowed",
                json.len(),
                limits.max_bytes
            ),
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let extents = List(limits.max_extents)
        .deserialize(&mut reader)
        .map_err(|e| bad(format!("the change list is not as it should be: {e}")))?;
    reader
        .end()
        .map_err(|e| bad(format!("something follows the change list: {e}")))?;
    let Extents::All(extents) = extents else {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the change list names more than {} extents",
                limits.max_extents
            ),
        ));
    };
    let mut ranges = Vec::with_capacity(extents.len());
    for (n, (offset, length)) in extents.into_iter().enumerate() {
        if length == 0 {
            return Err(bad(format!("extent {n} at byte {offset} has no length")));
        }
        let range = GuestRange::new(offset, length).ok_or_else(|| past_end(u64::MAX, disk_size))?;
        if range.end().get() > disk_size {
            return Err(past_end(range.end().get(), disk_size));
        }
        ranges.push(range);
    }
    Ok(ChangeList::from_unsorted(ranges))
}

/// What was read; a list over the limit is told apart from a malformed one.
enum Extents {
    All(Vec<(u64, u64)>),
    TooMany,
}

/// The array, or the object that holds it as `changes`. Carries the limit.
#[derive(Clone, Copy)]
struct List(usize);

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
        let mut all = Vec::new();
        let mut over = false;
        // On to the end even when over the limit: a syntax error behind it is still one.
        while let Some(extent) = seq.next_element_seed(OneExtent)? {
            if all.len() < self.0 {
                all.push(extent);
            } else {
                over = true;
            }
        }
        Ok(if over {
            Extents::TooMany
        } else {
            Extents::All(all)
        })
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
