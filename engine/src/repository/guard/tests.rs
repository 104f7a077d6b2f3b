//! The faults A1 to A15 of silent wrong restores that a chain guard can stop, each by its name.

use super::super::ids::Sequence;
use super::super::sidecar::tests::{child, record};
use super::*;

const GIB: u64 = 1 << 30;

/// A disk with a full and an increment on it.
struct World {
    full: DiskRecord,
    incr: DiskRecord,
    bindings: Vec<(DiskNumber, DeviceKey)>,
}

impl World {
    fn new() -> Self {
        let full = record(VmId::generate(), 0, 1);
        let incr = child(&full, 2, BackupKind::Incremental);
        let bindings = vec![(full.disk, full.device_key.clone())];
        Self {
            full,
            incr,
            bindings,
        }
    }

    fn history(&self) -> History<'_> {
        History {
            repository: self.full.repository_id,
            bindings: &self.bindings,
            head: Head::At(&self.incr),
            full: Some(&self.full),
        }
    }

    fn request(&self, kind: BackupKind, base: Option<&ChangeToken>) -> DiskRequest {
        DiskRequest {
            repository: self.full.repository_id,
            vm: self.full.vm_id,
            disk: self.full.disk,
            device_key: self.full.device_key.clone(),
            kind,
            base_token: base.cloned(),
            allow_full: false,
            size: 3 * GIB,
            damaged: Vec::new(),
        }
    }
}

#[test]
fn a1_incremental_builds_on_newest_not_on_full() {
    let w = World::new();
    let good = w.request(BackupKind::Incremental, Some(&w.incr.token));
    let decision = decide(&good, &w.history()).unwrap();
    assert_eq!(decision.kind, BackupKind::Incremental);
    let parent = decision.parent.unwrap();
    assert_eq!(parent.link.backup_id, w.incr.backup_id);
    assert_eq!(parent.link.file, w.incr.image.file);
    assert_eq!(parent.token, w.incr.token);

    // A delta relative to the full would miss what the increment before it brought.
    let stale = w.request(BackupKind::Incremental, Some(&w.full.token));
    let refusal = decide(&stale, &w.history()).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::BaseTokenMismatch {
            given: Some(w.full.token.clone()),
            parent: w.incr.backup_id.clone(),
            parent_token: w.incr.token.clone(),
        }
    );
    let error = Error::from(refusal);
    assert_eq!(error.kind, ErrorKind::BaseTokenMismatch);
    let text = error.to_string();
    for part in [
        w.full.token.as_str(),
        w.incr.token.as_str(),
        w.incr.backup_id.as_str(),
    ] {
        assert!(text.contains(part), "{text} does not name {part}");
    }
}

#[test]
fn a2_a_full_asked_for_is_a_full_whatever_was_before() {
    let w = World::new();
    for base in [None, Some(&w.incr.token)] {
        let decision = decide(&w.request(BackupKind::Full, base), &w.history()).unwrap();
        assert_eq!(decision.kind, BackupKind::Full);
        assert_eq!(decision.parent, None);
        assert_eq!(decision.reason, Reason::AsRequested);
    }
}

#[test]
fn a3_another_repository_or_another_vm_of_that_name_is_no_parent() {
    let w = World::new();
    let mut request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    request.repository = RepositoryId::generate();
    let refusal = decide(&request, &w.history()).unwrap_err();
    assert_eq!(refusal.code(), "other_repository");

    // The same VM, first time in a second repository: its token belongs to the first one.
    let elsewhere = History {
        repository: request.repository,
        bindings: &[],
        head: Head::None,
        full: None,
    };
    let refusal = decide(&request, &elsewhere).unwrap_err();
    assert_eq!(refusal.code(), "no_parent");

    // A point that was sealed in another repository and copied here by hand: a full may follow.
    let history = History {
        repository: request.repository,
        ..w.history()
    };
    let refusal = decide(&request, &history).unwrap_err();
    assert_eq!(refusal.code(), "other_repository");
    request.allow_full = true;
    let decision = decide(&request, &history).unwrap();
    assert_eq!((decision.kind, decision.parent), (BackupKind::Full, None));
    // But nothing goes into a repository that was not asked for.
    let refusal = decide(&request, &w.history()).unwrap_err();
    assert_eq!(refusal.code(), "other_repository");

    let mut twin = w.request(BackupKind::Incremental, Some(&w.incr.token));
    twin.vm = VmId::generate();
    assert_eq!(decide(&twin, &w.history()).unwrap_err().code(), "other_vm");
}

#[test]
fn a4_a_disk_answers_for_its_own_token() {
    let w = World::new();
    let other_disks = ChangeToken::parse("t-of-disk-1").unwrap();
    let request = w.request(BackupKind::Incremental, Some(&other_disks));
    assert_eq!(
        decide(&request, &w.history()).unwrap_err().code(),
        "base_token_mismatch"
    );
}

#[test]
fn a5_a_disk_is_its_device_key_not_its_place_in_a_list() {
    let w = World::new();
    let mut request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    request.device_key = DeviceKey::parse("2001").unwrap();
    let refusal = decide(&request, &w.history()).unwrap_err();
    assert_eq!(refusal.code(), "wrong_disk");
    // Not even a full may go under a number that is another device's.
    request.kind = BackupKind::Full;
    request.allow_full = true;
    assert_eq!(
        decide(&request, &w.history()).unwrap_err().code(),
        "wrong_disk"
    );

    let mut request = w.request(BackupKind::Full, None);
    request.disk = DiskNumber::new(1).unwrap();
    assert!(matches!(
        decide(&request, &w.history()).unwrap_err(),
        Refusal::WrongNumber { .. }
    ));
}

#[test]
fn a13_sizes_are_bytes() {
    let mut w = World::new();
    w.incr.virtual_size = 3 * GIB + 512;
    let mut request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    request.size = 3 * GIB + 512;
    assert_eq!(
        decide(&request, &w.history()).unwrap().kind,
        BackupKind::Incremental
    );
    request.size -= 1;
    assert_eq!(
        decide(&request, &w.history()).unwrap().kind,
        BackupKind::Full
    );
    request.size = 0;
    assert_eq!(decide(&request, &w.history()).unwrap_err(), Refusal::NoSize);
}

#[test]
fn a14_a_grown_disk_goes_on_and_a_shrunk_one_starts_over() {
    let w = World::new();
    let mut request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    request.size = 5 * GIB + 512;
    let decision = decide(&request, &w.history()).unwrap();
    assert_eq!(decision.kind, BackupKind::Incremental);
    assert_eq!(decision.parent.unwrap().virtual_size, 3 * GIB);

    request.size = 2 * GIB;
    let decision = decide(&request, &w.history()).unwrap();
    assert_eq!(decision.kind, BackupKind::Full);
    let (from, to) = (3 * GIB, 2 * GIB);
    assert_eq!(decision.reason, Reason::DiskShrank { from, to });
    assert_eq!(decision.requested, BackupKind::Incremental);
}

#[test]
fn a_differential_builds_on_the_full_of_the_newest() {
    let w = World::new();
    let request = w.request(BackupKind::Differential, Some(&w.full.token));
    let decision = decide(&request, &w.history()).unwrap();
    assert_eq!(decision.kind, BackupKind::Differential);
    assert_eq!(decision.parent.unwrap().link.backup_id, w.full.backup_id);
    let request = w.request(BackupKind::Differential, Some(&w.incr.token));
    assert!(decide(&request, &w.history()).is_err());
}

#[test]
fn without_a_parent_a_full_needs_leave() {
    let w = World::new();
    let history = History {
        bindings: &[],
        head: Head::None,
        full: None,
        ..w.history()
    };
    let mut request = w.request(BackupKind::Incremental, None);
    let refusal = decide(&request, &history).unwrap_err();
    assert_eq!(Error::from(refusal).kind, ErrorKind::NoParent);
    request.allow_full = true;
    let decision = decide(&request, &history).unwrap();
    assert_eq!(decision.kind, BackupKind::Full);
    assert_eq!(decision.reason.code(), "no_parent");
}

#[test]
fn a_disk_that_joined_the_vm_begins_with_a_full() {
    let w = World::new();
    let history = History {
        head: Head::None,
        full: None,
        ..w.history()
    };
    let mut request = w.request(BackupKind::Incremental, None);
    request.disk = DiskNumber::new(1).unwrap();
    request.device_key = DeviceKey::parse("2001").unwrap();
    let decision = decide(&request, &history).unwrap();
    assert_eq!(
        (decision.kind, decision.reason),
        (BackupKind::Full, Reason::NewDisk)
    );
    // One that brings a token believes in a parent that is not here.
    request.base_token = Some(w.incr.token.clone());
    assert_eq!(decide(&request, &history).unwrap_err().code(), "no_parent");
}

#[test]
fn an_unclear_head_carries_nothing() {
    let w = World::new();
    let history = History {
        head: Head::Unclear("points/x.json is damaged"),
        ..w.history()
    };
    let mut request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    assert_eq!(
        decide(&request, &history).unwrap_err().code(),
        "unclear_head"
    );
    request.allow_full = true;
    assert_eq!(
        decide(&request, &history).unwrap().reason.code(),
        "unclear_head"
    );
}

#[test]
fn a_missing_token_is_a_mismatch_and_allow_full_turns_it_into_one() {
    let w = World::new();
    let mut request = w.request(BackupKind::Incremental, None);
    let refusal = decide(&request, &w.history()).unwrap_err();
    assert_eq!(refusal.code(), "base_token_mismatch");
    request.allow_full = true;
    let decision = decide(&request, &w.history()).unwrap();
    assert_eq!(decision.kind, BackupKind::Full);
    assert_eq!(decision.reason, Reason::Instead(refusal));
}

#[test]
fn the_clock_set_back_changes_nothing() {
    let mut w = World::new();
    w.incr.started_at = w.full.started_at - jiff::SignedDuration::from_hours(1);
    w.incr.sequence = Sequence::new(2);
    let request = w.request(BackupKind::Incremental, Some(&w.incr.token));
    let parent = decide(&request, &w.history()).unwrap().parent.unwrap();
    assert_eq!(parent.link.backup_id, w.incr.backup_id);
}
