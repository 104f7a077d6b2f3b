//! Volume groups over all disks, and their logical volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sendense_formats::lvm::{Group, Id, Layout, Logical, Role, Segment};

use super::mapped::{Mapped, Run};
use super::physical::{self, Budget, Found};
use super::{Content, Origin, Volume, ids, look};
use crate::guest::{Blocks, Result};

/// Logical volumes that are shown at most, of all groups together.
const MAX_VOLUMES: usize = 4096;

/// Finds the groups whose physical volumes are among these volumes, notes there what they belong
/// to, and gives their logical volumes.
pub(super) fn assemble(volumes: &mut [Volume]) -> Result<Vec<Volume>> {
    let mut budget = Budget::default();
    let mut found = Vec::new();
    let mut newest: BTreeMap<Id, Group> = BTreeMap::new();
    for (place, volume) in volumes.iter_mut().enumerate() {
        let Content::Blocks {
            blocks,
            found: what,
        } = &volume.content
        else {
            continue;
        };
        if *what != crate::guest::Found::LvmMember {
            continue;
        }
        let blocks = Arc::clone(blocks);
        let label = match physical::label(&blocks)? {
            Ok(label) => label,
            Err(why) => {
                volume.content = Content::Unavailable(why);
                continue;
            }
        };
        let (groups, whys) = physical::groups(&blocks, &label, &mut budget)?;
        volume.notes.extend(whys);
        for group in groups {
            let known = newest.get(&group.id).map(|known| known.seqno);
            if known.is_none_or(|seqno| seqno < group.seqno) {
                newest.insert(group.id, group);
            }
        }
        found.push(Found {
            id: label.id,
            disk: volume.disks.first().copied().unwrap_or(0),
            place,
            blocks,
        });
    }
    let mut by_id: HashMap<Id, Vec<&Found>> = HashMap::new();
    for pv in &found {
        by_id.entry(pv.id).or_default().push(pv);
    }
    note_members(volumes, &found, newest.values());
    let mut all = Vec::new();
    for group in newest.values() {
        let twins = newest.values().filter(|g| g.name == group.name).count();
        let mark = (twins > 1).then(|| group.id.short());
        let members = Members::of(group, &by_id);
        for logical in group.logical.iter().filter(|lv| lv.visible) {
            if all.len() >= MAX_VOLUMES {
                return Ok(all);
            }
            all.push(volume(group, mark.as_deref(), logical, &members)?);
        }
    }
    Ok(all)
}

fn note_members<'g>(
    volumes: &mut [Volume],
    found: &[Found],
    groups: impl Iterator<Item = &'g Group>,
) {
    let mut of: HashMap<Id, &str> = HashMap::new();
    for group in groups {
        for pv in &group.physical {
            of.insert(pv.id, &group.name);
        }
    }
    for pv in found {
        let Some(volume) = volumes.get_mut(pv.place) else {
            continue;
        };
        volume.notes.push(match of.get(&pv.id) {
            Some(group) => format!("a physical volume of the volume group {group}"),
            None => "a physical volume of no volume group that is known here".to_owned(),
        });
    }
}

/// The physical volumes of one group by their names in its metadata, or why they cannot be used.
struct Members<'g>(HashMap<&'g str, Result<Member, String>>);

#[derive(Clone)]
struct Member {
    disk: u32,
    blocks: Arc<dyn Blocks>,
    first_extent_at: u64,
    extents: u64,
}

impl<'g> Members<'g> {
    fn of(group: &'g Group, found: &HashMap<Id, Vec<&Found>>) -> Self {
        let member = |pv: &sendense_formats::lvm::Physical| {
            let here = found.get(&pv.id).map_or(&[][..], Vec::as_slice);
            match here {
                _ if pv.missing => Err(format!(
                    "the physical volume {} was missing when the group was changed last",
                    pv.id
                )),
                [] => Err(format!("the physical volume {} is missing", pv.id)),
                [one] => Ok(Member {
                    disk: one.disk,
                    blocks: Arc::clone(&one.blocks),
                    first_extent_at: pv.first_extent_at,
                    extents: pv.extents,
                }),
                [..] => Err(format!(
                    "the physical volume {} is there {} times, and which is the right one is not \
                     known",
                    pv.id,
                    here.len()
                )),
            }
        };
        let all = group.physical.iter();
        Self(all.map(|pv| (pv.name.as_str(), member(pv))).collect())
    }

    /// The runs of a segment.
    fn run(&self, group: &Group, segment: &Segment) -> Result<Run, String> {
        let (stripe, areas) = match &segment.layout {
            Layout::Striped { stripe, areas } => (*stripe, areas),
            Layout::Other(kind) => {
                return Err(format!(
                    "segments of type {} are not read yet",
                    kind.escape_debug()
                ));
            }
        };
        let each = segment.extents.checked_div(areas.len() as u64).unwrap_or(0);
        let mut legs = Vec::new();
        for (name, first) in areas {
            let member = match self.0.get(name.as_str()) {
                Some(Ok(member)) => member,
                Some(Err(why)) => return Err(why.clone()),
                None => {
                    return Err(format!(
                        "it stands on {}, which is no physical volume: that is not read yet",
                        name.escape_debug()
                    ));
                }
            };
            if first
                .checked_add(each)
                .is_none_or(|end| end > member.extents)
            {
                return Err("a segment lies outside of its physical volume".to_owned());
            }
            let at = first.checked_mul(group.extent);
            let at = at.and_then(|at| at.checked_add(member.first_extent_at));
            let at = at.ok_or("a segment lies outside of its physical volume")?;
            legs.push((Arc::clone(&member.blocks), at));
        }
        let len = segment.extents.checked_mul(group.extent);
        Ok(Run {
            len: len.ok_or("a segment is longer than any disk")?,
            stripe,
            legs,
        })
    }
}

fn mapped(group: &Group, logical: &Logical, members: &Members<'_>) -> Result<Mapped, String> {
    match &logical.role {
        Role::Plain => {}
        Role::Snapshot(origin) => {
            return Err(format!(
                "a snapshot of {}: snapshots are not read yet",
                origin.escape_debug()
            ));
        }
        Role::Merging(snapshot) => {
            return Err(format!(
                "the snapshot {} is being merged into it: that is not read yet",
                snapshot.escape_debug()
            ));
        }
    }
    let segments = logical.segments.as_ref().map_err(ToString::to_string)?;
    if segments.is_empty() {
        return Err("it has no segment".to_owned());
    }
    let runs = segments.iter().map(|segment| members.run(group, segment));
    Mapped::new(runs.collect::<Result<_, _>>()?).map_err(|fault| fault.to_string())
}

fn volume(
    group: &Group,
    mark: Option<&str>,
    logical: &Logical,
    members: &Members<'_>,
) -> Result<Volume> {
    let mut disks = BTreeSet::new();
    for segment in logical.segments.iter().flatten() {
        if let Layout::Striped { areas, .. } = &segment.layout {
            let used = areas
                .iter()
                .filter_map(|(name, _)| members.0.get(name.as_str()));
            disks.extend(used.flatten().map(|member| member.disk));
        }
    }
    let content = match mapped(group, logical, members) {
        Ok(mapped) => {
            let blocks: Arc<dyn Blocks> = Arc::new(mapped);
            let found = look(&blocks)?;
            Content::Blocks { blocks, found }
        }
        Err(why) => Content::Unavailable(why),
    };
    Ok(Volume {
        id: ids::logical(&group.name, mark, &logical.name),
        origin: Origin::Logical,
        disks: disks.into_iter().collect(),
        size: logical.extents.saturating_mul(group.extent),
        name: Some(format!("{}/{}", group.name, logical.name)),
        content,
        notes: Vec::new(),
    })
}
