//! Chains as the manifests tell them.

use proptest::prelude::*;

use super::super::ids::{ChangeToken, VmId};
use super::super::manifest::DiskEntry;
use super::super::sidecar::tests::{child, record};
use super::*;

fn point(disks: Vec<DiskRecord>) -> Arc<RestorePoint> {
    let first = disks[0].clone();
    let entries = disks.iter().map(|record| DiskEntry {
        disk: record.disk,
        sidecar: format!("disk-{}/{}.json", record.disk, record.stem().unwrap()),
        crc32: 0,
    });
    Arc::new(RestorePoint {
        manifest: PointManifest {
            backup_id: first.backup_id,
            repository_id: first.repository_id,
            vm_id: first.vm_id,
            vm_name: first.vm_name,
            context_id: None,
            sequence: first.sequence,
            requested_kind: first.requested_kind,
            kind: first.kind,
            disks: entries.collect(),
            started_at: first.started_at,
            sealed_at: first.completed_at,
            software: first.software,
            unknown: BTreeMap::new(),
        },
        disks: disks.into_iter().map(Arc::new).collect(),
    })
}

fn view(records: Vec<DiskRecord>) -> VmPoints {
    let points = records.into_iter().map(|r| point(vec![r])).collect();
    VmPoints::new(points, Vec::new())
}

fn ids(points: &[Arc<RestorePoint>]) -> Vec<String> {
    points.iter().map(|p| p.id().to_string()).collect()
}

fn disk(number: u32) -> DiskNumber {
    DiskNumber::new(number).unwrap()
}

#[test]
fn the_head_is_the_newest_of_any_kind_and_deleting_it_moves_back() {
    let full = record(VmId::generate(), 0, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let diff = child(&full, 3, BackupKind::Differential);
    let all = view(vec![diff.clone(), full.clone(), incr.clone()]);
    assert!(matches!(all.head(disk(0)), Head::At(r) if *r == diff));
    assert!(matches!(all.head(disk(1)), Head::None));
    assert_eq!(all.next_disk_sequence(disk(0)).get(), 4);
    assert_eq!(all.next_disk_sequence(disk(1)).get(), 1);
    let less = view(vec![full, incr.clone()]);
    assert!(matches!(less.head(disk(0)), Head::At(r) if *r == incr));
}

#[test]
fn a12_a_new_full_begins_a_chain_of_its_own() {
    let full = record(VmId::generate(), 0, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let new_full = record(full.vm_id, 0, 3);
    let new_incr = child(&new_full, 4, BackupKind::Incremental);
    let all = view(vec![full, incr, new_full, new_incr]);
    let chains = all.chains(disk(0));
    let shape: Vec<_> = chains
        .iter()
        .map(|c| {
            (
                c.current,
                c.members
                    .iter()
                    .map(|m| m.sequence.get())
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(shape, [(false, vec![1, 2]), (true, vec![3, 4])]);
}

#[test]
fn dependents_are_all_that_builds_on_it() {
    let full = record(VmId::generate(), 0, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let diff = child(&full, 3, BackupKind::Differential);
    let last = child(&incr, 4, BackupKind::Incremental);
    let names = [&full, &incr, &diff, &last].map(|r| r.backup_id.to_string());
    let all = view(vec![full.clone(), incr.clone(), diff.clone(), last]);
    let of = |r: &DiskRecord| ids(&all.dependents(&[&r.backup_id]));
    assert_eq!(of(&full), names[1..]);
    assert_eq!(of(&incr), names[3..]);
    assert!(of(&diff).is_empty());
}

#[test]
fn dependents_through_another_disk_count() {
    let full = record(VmId::generate(), 0, 1);
    let full_b = record(full.vm_id, 1, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let mut new_full_b = record(full.vm_id, 1, 2);
    new_full_b.backup_id = incr.backup_id.clone();
    let all = VmPoints::new(
        vec![
            point(vec![full.clone(), full_b]),
            point(vec![incr, new_full_b]),
        ],
        Vec::new(),
    );
    assert_eq!(all.dependents(&[&full.backup_id]).len(), 1);
}

#[test]
fn what_cannot_be_read_blocks_instead_of_hiding() {
    let full = record(VmId::generate(), 0, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let damaged = |sequence| DamagedPoint {
        backup_id: incr.backup_id.clone(),
        sequence,
        why: "it is torn".into(),
    };
    for sequence in [None, Some(Sequence::new(2))] {
        let all = VmPoints::new(vec![point(vec![full.clone()])], vec![damaged(sequence)]);
        assert!(matches!(all.head(disk(0)), Head::Unclear("it is torn")));
        let unread = all.unread_behind(&full.backup_id);
        assert_eq!(unread, [&damaged(sequence)]);
        assert!(all.unread_behind(&incr.backup_id).is_empty());
        assert!(all.dependents(&[&incr.backup_id]).is_empty());
        assert_eq!(all.next_disk_sequence(disk(0)).get(), 3);
        assert_eq!(
            all.get(&incr.backup_id).unwrap_err().kind,
            ErrorKind::Damaged
        );
    }
    // One that is known to be older than the newest does not stand in its way.
    let third = child(&full, 3, BackupKind::Incremental);
    let points = vec![point(vec![full]), point(vec![third.clone()])];
    let all = VmPoints::new(points, vec![damaged(Some(Sequence::new(2)))]);
    assert!(matches!(all.head(disk(0)), Head::At(_)));
    assert!(all.unread_behind(&third.backup_id).is_empty());
}

#[test]
fn a5_a_device_keeps_its_number_and_a_new_one_gets_a_new_one() {
    let vm = VmId::generate();
    let all = view(vec![record(vm, 0, 1), record(vm, 2, 2)]);
    let key = |k: &str| DeviceKey::parse(k).unwrap();
    let number =
        |k: &str, known: &[(DiskNumber, DeviceKey)]| all.number_for(&key(k), known).unwrap().get();
    assert_eq!(number("disk-2", &[]), 2);
    assert_eq!(number("scsi0:1", &[]), 3);
    let known = [(disk(7), key("scsi0:1"))];
    assert_eq!(number("scsi0:1", &known), 7);
    assert_eq!(number("scsi0:2", &known), 8);
    assert_eq!(
        VmPoints::default()
            .number_for(&key("x"), &[])
            .unwrap()
            .get(),
        0
    );
}

#[test]
fn two_at_one_place_are_unclear() {
    let full = record(VmId::generate(), 0, 1);
    let mut twin = child(&full, 2, BackupKind::Incremental);
    twin.sequence = full.sequence;
    let all = view(vec![full, twin]);
    assert!(matches!(all.head(disk(0)), Head::Unclear(_)));
}

#[test]
fn a_lineage_is_given_only_where_every_step_fits() {
    let full = record(VmId::generate(), 0, 1);
    let incr = child(&full, 2, BackupKind::Incremental);
    let last = child(&incr, 3, BackupKind::Incremental);
    let all = view(vec![full.clone(), incr.clone(), last.clone()]);
    let layers = all.lineage(&last.backup_id, disk(0)).unwrap();
    let order: Vec<_> = layers.iter().map(|l| l.sequence.get()).collect();
    assert_eq!(order, [3, 2, 1]);
    assert_eq!(*all.full_of(&last).unwrap(), full);

    let changes: [fn(&mut DiskRecord); 5] = [
        // A1: a delta relative to the full, laid over an increment.
        |r| r.base_token = Some(ChangeToken::parse("t1").unwrap()),
        |r| r.sequence = Sequence::new(2),
        |r| r.device_key = DeviceKey::parse("another").unwrap(),
        |r| r.parent.as_mut().unwrap().file = "full-20251004-000001.qcow2".into(),
        |r| r.kind = BackupKind::Differential,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut bad = last.clone();
        change(&mut bad);
        let all = view(vec![full.clone(), incr.clone(), bad]);
        let error = all.lineage(&last.backup_id, disk(0)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "change {n}: {error}");
        assert_eq!(all.chains(disk(0))[0].members.len(), 2, "change {n}");
    }
    let torn = view(vec![full, last.clone()]);
    let error = torn.lineage(&last.backup_id, disk(0)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(
        error.to_string().contains("builds on what is not there"),
        "{error}"
    );
}

#[test]
fn a_cycle_ends() {
    let full = record(VmId::generate(), 0, 1);
    let mut a = child(&full, 2, BackupKind::Incremental);
    let b = child(&a, 3, BackupKind::Incremental);
    a.parent.as_mut().unwrap().backup_id = b.backup_id.clone();
    a.parent.as_mut().unwrap().file = b.image.file.clone();
    a.base_token = Some(b.token.clone());
    let all = view(vec![full, a, b.clone()]);
    assert!(all.lineage(&b.backup_id, disk(0)).is_err());
}

proptest! {
    /// Whatever tree of points: dependents are exactly those whose lineage holds the point.
    #[test]
    fn dependents_and_lineages_agree(parents in prop::collection::vec(any::<prop::sample::Index>(), 1..20)) {
        let full = record(VmId::generate(), 0, 1);
        let mut records = vec![full];
        for (n, parent) in parents.iter().enumerate() {
            let parent = parent.get(&records).clone();
            records.push(child(&parent, n as u64 + 2, BackupKind::Incremental));
        }
        let all = view(records.clone());
        for record in &records {
            let dependents = all.dependents(&[&record.backup_id]);
            for other in &records {
                let lineage = all.lineage(&other.backup_id, disk(0)).unwrap();
                let holds = other != record && lineage.iter().any(|l| **l == *record);
                let depends = dependents.iter().any(|p| *p.id() == other.backup_id);
                prop_assert_eq!(holds, depends);
            }
        }
    }
}
