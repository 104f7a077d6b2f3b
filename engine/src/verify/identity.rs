//! The sidecars of a chain against each other.

use super::{Finding, FindingKind, VerifyReport};
use crate::repository::LayerFile;

/// Each layer builds on the next one, of the same disk of the same VM, in one repository, with a
/// token that fits; the last one is a full.
pub(super) fn judge(layers: &[LayerFile], report: &mut VerifyReport) {
    let mut wrong = |layer: &LayerFile, detail: String| {
        report.add(Finding {
            file: layer.record.image.file.clone(),
            kind: FindingKind::Identity,
            host_cluster: None,
            guest: Vec::new(),
            detail,
        });
    };
    let (Some(top), Some(bottom)) = (layers.first(), layers.last()) else {
        return;
    };
    for pair in layers.windows(2) {
        let [child, parent] = pair else {
            continue;
        };
        let (c, p) = (&child.record, &parent.record);
        match &c.parent {
            Some(link) if link.backup_id == p.backup_id && link.file == p.image.file => {}
            Some(link) => wrong(
                child,
                format!("its parent is {}, not {}", link.backup_id, p.backup_id),
            ),
            None => wrong(
                child,
                format!("it names no parent, yet stands on {}", p.backup_id),
            ),
        }
        if c.base_token.as_ref() != Some(&p.token) {
            wrong(
                child,
                "its base token is not the token of its parent".to_owned(),
            );
        }
        if c.sequence <= p.sequence {
            wrong(
                child,
                format!("it is older than its parent {}", p.backup_id),
            );
        }
    }
    if bottom.record.parent.is_some() {
        wrong(bottom, "its parent is missing".to_owned());
    }
    for layer in layers {
        let (l, t) = (&layer.record, &top.record);
        if (l.vm_id, l.disk, &l.device_key) != (t.vm_id, t.disk, &t.device_key) {
            wrong(layer, format!("it is of disk {} of VM {}", l.disk, l.vm_id));
        }
        if layer.file.len().ok() != Some(l.image.len) {
            wrong(
                layer,
                format!(
                    "its length is not the {} bytes that were sealed",
                    l.image.len
                ),
            );
        }
    }
}
