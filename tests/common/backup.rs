//! The usual steps of a backup in one call each, for tests that are about something else.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::disk::{Act, Change, Disk, Random, to_json};
use crate::mover;

/// The unix URI of a started backup's disk.
pub fn uri(started: &Value, disk: usize) -> String {
    started["disks"][disk]["nbd_uris"][0]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The id of a started backup.
pub fn id(started: &Value) -> String {
    started["backup_id"].as_str().unwrap().to_owned()
}

/// A full of a one-disk VM, pushed by nbdcopy and sealed with a token; its id.
#[track_caller]
pub fn full(daemon: &Daemon, vm: &str, disk: &Disk, token: &str) -> String {
    let started = daemon.start_backup(&full_request(vm, disk));
    mover::nbdcopy(disk, &uri(&started, 0)).ok();
    let id = id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0, "change_id": token }]));
    id
}

/// The request of a full of a one-disk VM.
pub fn full_request(vm: &str, disk: &Disk) -> Value {
    json!({
        "vm_name": vm, "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": disk.size() }],
    })
}

/// The request of an incremental or differential of a one-disk VM.
pub fn delta_request(vm: &str, kind: &str, disk: &Disk, base: &str, changes: &[Change]) -> Value {
    json!({
        "vm_name": vm, "backup_type": kind, "repository": "local",
        "disks": [{
            "disk_id": 0, "size_bytes": disk.size(), "base_change_id": base,
            "changes": to_json(changes),
        }],
    })
}

/// A delta of a one-disk VM, pushed over several connections and sealed with a token; its id.
#[track_caller]
pub fn delta(
    daemon: &Daemon,
    vm: &str,
    kind: &str,
    disk: &Disk,
    (base, token): (&str, &str),
    changes: &[Change],
) -> String {
    let started = daemon.start_backup(&delta_request(vm, kind, disk, base, changes));
    assert_eq!(started["backup_type"], kind, "{started}");
    mover::send_changes(disk, &uri(&started, 0), changes, 3, changes.len() as u64);
    let id = id(&started);
    daemon.complete(&id, &json!([{ "disk_id": 0, "change_id": token }]));
    id
}

/// A full and two incrementals of the VM `vm`, sealed with the tokens `u/0` to `u/2`; the ids in
/// that order. `disk` changes with them.
#[track_caller]
pub fn chain_of_three(d: &Daemon, disk: &Disk) -> Vec<String> {
    let mut ids = vec![full(d, "vm", disk, "u/0")];
    for n in 1..=2u64 {
        let changes = [Change {
            at: n << 20,
            len: 65536,
            act: Act::Write,
        }];
        disk.apply(&changes, &mut Random::new(n));
        let (base, token) = (format!("u/{}", n - 1), format!("u/{n}"));
        ids.push(delta(
            d,
            "vm",
            "incremental",
            disk,
            (&base, &token),
            &changes,
        ));
    }
    ids
}
