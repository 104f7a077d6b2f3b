//! A physical volume on a disk or partition, and the metadata that stands on it.

use std::sync::Arc;

use sendense_formats::lvm::{Area, AreaHeader, Group, Id, Label, TextAt};

use crate::guest::{Blocks, Result};

/// Metadata areas of one physical volume that are looked at; LVM2 makes two at most.
const MAX_AREAS: usize = 4;

/// A physical volume.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its identifier.
    pub(super) id: Id,
    /// The disk that it lies on.
    pub(super) disk: u32,
    /// The volume that it is.
    pub(super) place: usize,
    /// Its bytes.
    pub(super) blocks: Arc<dyn Blocks>,
}

/// What may be spent on metadata texts in one look at all disks: they come from hostile disks.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    seen: Vec<(u32, u64)>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            seen: Vec::new(),
        }
    }
}

/// Reads the label.
pub(super) fn label(blocks: &Arc<dyn Blocks>) -> Result<Result<Label, String>> {
    let mut why = "there is no label".to_owned();
    for number in 0..Label::SECTORS {
        let at = Label::sector_at(number);
        if at.saturating_add(512) > blocks.size() {
            break;
        }
        match Label::parse(&blocks.bytes(at, 512)?, number) {
            Ok(label) => return Ok(Ok(label)),
            Err(e) if e.kind == sendense_formats::ErrorKind::NotThisFormat => {}
            Err(e) => why = e.to_string(),
        }
    }
    Ok(Err(why))
}

/// Reads the groups that the metadata areas describe, the same text once, and what was wrong.
pub(super) fn groups(
    blocks: &Arc<dyn Blocks>,
    label: &Label,
    budget: &mut Budget,
) -> Result<(Vec<Group>, Vec<String>)> {
    let (mut groups, mut whys) = (Vec::new(), Vec::new());
    for area in label.metadata.iter().take(MAX_AREAS) {
        match group(blocks, *area, budget)? {
            Ok(found) => groups.extend(found),
            Err(why) => whys.push(why),
        }
    }
    Ok((groups, whys))
}

fn group(
    blocks: &Arc<dyn Blocks>,
    area: Area,
    budget: &mut Budget,
) -> Result<Result<Option<Group>, String>> {
    let outside = || format!("the metadata area at byte {} lies outside", area.at);
    let fits = |area: &Area| {
        area.at
            .checked_add(area.len)
            .is_some_and(|end| end <= blocks.size())
    };
    if !fits(&area) || area.len < AreaHeader::BYTES as u64 {
        return Ok(Err(outside()));
    }
    let header = AreaHeader::parse(&blocks.bytes(area.at, AreaHeader::BYTES)?, area);
    let text = match header {
        Ok(header) => header.text,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let Some(text) = text.filter(|text| budget.is_new(text)) else {
        return Ok(Ok(None));
    };
    if !text.parts.iter().all(fits) {
        return Ok(Err(outside()));
    }
    if !budget.spend(text.len()) {
        return Ok(Err("there is more metadata than is read".to_owned()));
    }
    let mut bytes = Vec::new();
    for part in text.parts {
        bytes.extend(blocks.bytes(part.at, usize::try_from(part.len).unwrap_or(usize::MAX))?);
    }
    if !text.verify(&bytes) {
        return Ok(Err(format!(
            "the metadata text in the area at byte {} has a wrong checksum",
            area.at
        )));
    }
    let group = Group::parse(&bytes).map_err(|e| e.to_string());
    if group.is_ok() {
        budget.seen.push((text.crc, text.len()));
    }
    Ok(group.map(Some))
}

impl Budget {
    fn is_new(&self, text: &TextAt) -> bool {
        !self.seen.contains(&(text.crc, text.len()))
    }

    fn spend(&mut self, bytes: u64) -> bool {
        match self.bytes.checked_sub(bytes) {
            Some(left) => {
                self.bytes = left;
                true
            }
            None => false,
        }
    }
}
