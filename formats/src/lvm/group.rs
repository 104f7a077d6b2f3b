//! A volume group as its metadata text describes it.

use super::{Id, SECTOR, Section, Value};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a name, as in LVM2.
const MAX_NAME: usize = 127;

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its identifier: names are not unique.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// Raised with every change: the highest is the newest.
    pub seqno: u64,
    /// Bytes of one extent, never 0.
    pub extent: u64,
    /// Its physical volumes, missing ones included.
    pub physical: Vec<Physical>,
    /// Its logical volumes, hidden ones included, by name.
    pub logical: Vec<Logical>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Physical {
    /// Its name inside of the metadata.
    pub name: String,
    /// Its identifier.
    pub id: Id,
    /// The byte at which its first extent begins.
    pub first_extent_at: u64,
    /// Its extents.
    pub extents: u64,
    /// Whether the group wrote on without it: what it holds is old.
    pub missing: bool,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logical {
    /// Its name.
    pub name: String,
    /// Its identifier, where it is a valid one.
    pub id: Option<Id>,
    /// Whether people are meant to see it.
    pub visible: bool,
    /// What it is to others.
    pub role: Role,
    /// Its extents in all.
    pub extents: u64,
    /// Its segments, in order, without a gap; or why they make no sense.
    pub segments: Result<Vec<Segment>>,
}

/// What a logical volume is to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Itself.
    Plain,
    /// It holds the changed blocks of a snapshot of this origin, not the snapshot's content.
    Snapshot(String),
    /// This snapshot is being merged into it: what it holds is partly old.
    Merging(String),
}

/// A run of extents of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The first extent of the logical volume.
    pub start: u64,
    /// Extents, never 0.
    pub extents: u64,
    /// Where they lie.
    pub layout: Layout,
}

/// Where the extents of a segment lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// On one physical volume, or in turns on several.
    Striped {
        /// Bytes on one before it is the next one's turn; not used with one.
        stripe: u64,
        /// By name in the metadata, and the first extent there. Never empty.
        areas: Vec<(String, u64)>,
    },
    /// In another way, by the name of its type.
    Other(String),
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, what)
}

fn need<T>(value: Option<T>, key: &str, of: &str) -> Result<T> {
    value.ok_or_else(|| bad(format!("`{of}` has no valid `{key}`")))
}

impl Group {
    /// Parses a metadata text.
    ///
    /// # Errors
    /// As [`Section::parse`]; `Malformed` where the group itself makes no sense, `Unsupported` for
    /// another version. A logical volume that makes none carries its own error.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let top = Section::parse(text)?;
        if let Some(version) = top.number("version").filter(|v| *v != 1) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("volume groups of version {version}"),
            ));
        }
        let mut groups = top.sections();
        let (Some((name, vg)), None) = (groups.next(), groups.next()) else {
            return Err(bad("the metadata text does not describe one volume group"));
        };
        check_name(name)?;
        let id = need(vg.text("id").and_then(Id::parse), "id", name)?;
        let extent = vg.number("extent_size").filter(|sectors| *sectors > 0);
        let extent = extent.and_then(|sectors| sectors.checked_mul(SECTOR));
        let nothing = Section::default();
        let listed = vg.section("physical_volumes").unwrap_or(&nothing);
        let physical: Result<Vec<_>> = listed.sections().map(Physical::parse).collect();
        let listed = vg.section("logical_volumes").unwrap_or(&nothing);
        let mut logical = Vec::new();
        for (name, lv) in listed.sections() {
            check_name(name)?;
            logical.push(Logical::parse(name, lv));
        }
        set_roles(listed, &mut logical);
        Ok(Self {
            id,
            name: name.to_owned(),
            seqno: need(vg.number("seqno"), "seqno", name)?,
            extent: need(extent, "extent_size", name)?,
            physical: physical?,
            logical,
        })
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_NAME || matches!(name, "." | "..") {
        return Err(bad("the metadata text holds a name that none can be"));
    }
    Ok(())
}

impl Physical {
    fn parse((name, pv): (&str, &Section)) -> Result<Self> {
        let start = pv.number("pe_start").and_then(|s| s.checked_mul(SECTOR));
        Ok(Self {
            name: name.to_owned(),
            id: need(pv.text("id").and_then(Id::parse), "id", name)?,
            first_extent_at: need(start, "pe_start", name)?,
            extents: need(pv.number("pe_count"), "pe_count", name)?,
            missing: pv.lists("flags", "MISSING") || pv.lists("status", "MISSING"),
        })
    }
}

impl Logical {
    fn parse(name: &str, lv: &Section) -> Self {
        let segments = segments(name, lv);
        let extents = segments.as_ref().map_or(0, |s| {
            s.last()
                .map_or(0, |last| last.start.saturating_add(last.extents))
        });
        Self {
            name: name.to_owned(),
            id: lv.text("id").and_then(Id::parse),
            visible: lv.lists("status", "VISIBLE"),
            role: Role::Plain,
            extents,
            segments,
        }
    }
}

fn segments(name: &str, lv: &Section) -> Result<Vec<Segment>> {
    let count = need(lv.number("segment_count"), "segment_count", name)?;
    let mut segments = Vec::new();
    let mut next = 0u64;
    // Each has to be there, so the text bounds how many there are.
    for number in 1..=count {
        let key = format!("segment{number}");
        let segment = need(lv.section(&key), &key, name)?;
        let start = need(segment.number("start_extent"), "start_extent", name)?;
        let extents = segment.number("extent_count").filter(|n| *n > 0);
        let extents = need(extents, "extent_count", name)?;
        if start != next {
            return Err(bad(format!(
                "`{name}` goes on at extent {next}, and its next segment begins at {start}"
            )));
        }
        next = need(next.checked_add(extents), "extent_count", name)?;
        segments.push(Segment {
            start,
            extents,
            layout: layout(name, segment, extents)?,
        });
    }
    Ok(segments)
}

fn layout(name: &str, segment: &Section, extents: u64) -> Result<Layout> {
    let kind = need(segment.text("type"), "type", name)?;
    if !matches!(kind, "striped" | "linear") {
        return Ok(Layout::Other(kind.chars().take(MAX_NAME).collect()));
    }
    let Some(Value::List(list)) = segment.get("stripes") else {
        return Err(bad(format!("`{name}` has no valid `stripes`")));
    };
    let mut areas = Vec::new();
    for pair in list.chunks(2) {
        let [Value::Text(on), Value::Number(first)] = pair else {
            return Err(bad(format!("`{name}` has no valid `stripes`")));
        };
        let first = need(u64::try_from(*first).ok(), "stripes", name)?;
        areas.push((on.clone(), first));
    }
    let count = areas.len() as u64;
    if count == 0 || segment.number("stripe_count").is_some_and(|n| n != count) {
        return Err(bad(format!("`{name}` has no valid `stripe_count`")));
    }
    let stripe = match count {
        1 => 0,
        _ => {
            let stripe = segment.number("stripe_size").filter(|sectors| *sectors > 0);
            let stripe = stripe.and_then(|sectors| sectors.checked_mul(SECTOR));
            need(stripe, "stripe_size", name)?
        }
    };
    if !extents.is_multiple_of(count) {
        return Err(bad(format!(
            "`{name}` has {extents} extents in {count} stripes"
        )));
    }
    Ok(Layout::Striped { stripe, areas })
}

/// A snapshot is described by a hidden volume that names its origin and its store.
fn set_roles(listed: &Section, logical: &mut [Logical]) {
    let mut set = |name: &str, role: Role| {
        // By name, as they are listed.
        if let Ok(found) = logical.binary_search_by(|lv| lv.name.as_str().cmp(name))
            && let Some(lv) = logical.get_mut(found)
        {
            lv.role = role;
        }
    };
    for (_, lv) in listed.sections() {
        for (_, segment) in lv.sections() {
            let Some(origin) = segment
                .text("origin")
                .filter(|_| segment.text("type") == Some("snapshot"))
            else {
                continue;
            };
            if let Some(store) = segment.text("cow_store") {
                set(store, Role::Snapshot(origin.to_owned()));
            }
            if let Some(store) = segment.text("merging_store") {
                set(store, Role::Snapshot(origin.to_owned()));
                set(origin, Role::Merging(store.to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "AbCdEf-0123-4567-89ab-cdef-ghij-klmnop";

    fn group(logical: &str) -> Result<Group> {
        let text = format!(
            "vg0 {{ id = \"{ID}\" seqno = 3 extent_size = 8192 physical_volumes {{ pv0 {{ id = \
             \"{ID}\" pe_start = 2048 pe_count = 10 }} pv1 {{ id = \"{ID}\" pe_start = 2048 \
             pe_count = 10 flags = [\"MISSING\"] }} }} logical_volumes {{ {logical} }} }} version = 1"
        );
        Group::parse(text.as_bytes())
    }

    fn volume(name: &str, segments: &[&str]) -> String {
        let mut text = format!(
            "{name} {{ status = [\"READ\", \"VISIBLE\"] segment_count = {} ",
            segments.len()
        );
        for (n, segment) in segments.iter().enumerate() {
            text += &format!("segment{} {{ {segment} }} ", n + 1);
        }
        text + "}\n"
    }

    const LINEAR: &str = "start_extent = 0 extent_count = 4 type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 2]";

    #[test]
    fn linear_and_striped_segments_are_read() {
        let second = "start_extent = 4 extent_count = 6 type = \"striped\" stripe_count = 2 \
                      stripe_size = 128 stripes = [\"pv0\", 6, \"pv1\", 0]";
        let group = group(&volume("root", &[LINEAR, second])).unwrap();
        assert_eq!((group.extent, group.seqno), (4 << 20, 3));
        assert!(!group.physical[0].missing && group.physical[1].missing);
        let root = &group.logical[0];
        assert_eq!((root.extents, root.visible), (10, true));
        let segments = root.segments.as_ref().unwrap();
        assert_eq!(
            segments[1].layout,
            Layout::Striped {
                stripe: 64 << 10,
                areas: vec![("pv0".to_owned(), 6), ("pv1".to_owned(), 0)]
            }
        );
    }

    #[test]
    fn a_broken_volume_is_named_and_the_others_stand() {
        let gap = LINEAR.replace("start_extent = 0", "start_extent = 1");
        let uneven = LINEAR.replace(
            "stripes = [\"pv0\", 2]",
            "stripe_size = 8 stripes = [\"pv0\", 2, \"pv1\", 0, \"pv1\", 4]",
        );
        let uneven = uneven.replace("stripe_count = 1", "stripe_count = 3");
        let no_list = LINEAR.replace("[\"pv0\", 2]", "[\"pv0\"]");
        let list = [gap, uneven, no_list].map(|s| s.clone());
        for (n, segment) in list.iter().enumerate() {
            let text = volume("bad", &[segment]) + &volume("good", &[LINEAR]);
            let group = group(&text).unwrap();
            assert!(group.logical[0].segments.is_err(), "{n}");
            assert!(group.logical[1].segments.is_ok(), "{n}");
        }
        assert!(group("").unwrap().logical.is_empty());
        assert!(Group::parse(b"version = 2 vg0 { }").is_err());
    }

    #[test]
    fn a_snapshot_store_and_a_merge_are_told_apart_from_content() {
        let snapshot = "start_extent = 0 extent_count = 4 type = \"snapshot\" chunk_size = 8 \
                        origin = \"root\" cow_store = \"snap\"";
        let text = volume("root", &[LINEAR]) + &volume("snap", &[LINEAR]);
        let plain = group(&(text.clone() + &volume("snapshot0", &[snapshot]))).unwrap();
        assert_eq!(plain.logical[0].role, Role::Plain);
        assert_eq!(plain.logical[1].role, Role::Snapshot("root".to_owned()));
        let merging = snapshot.replace("cow_store", "merging_store");
        let merging = group(&(text + &volume("snapshot0", &[&merging]))).unwrap();
        assert_eq!(merging.logical[0].role, Role::Merging("snap".to_owned()));
    }
}
