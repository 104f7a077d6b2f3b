use serde_json::json;

use super::*;
use crate::types::{BackupList, ChainPoint, Deletion, JobList, Reload, VmChains};

fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn a_backup(id: &str) -> serde_json::Value {
    json!({
        "backup_id": id, "vm_id": "u1", "vm_name": "pgtest2", "repository": "local",
        "requested_type": "incremental", "backup_type": "full", "reason": "no parent",
        "status": "completed", "parent_backup_id": null,
        "disks": [{
            "disk_id": 0, "size_bytes": 1_073_742_336_u64, "device_key": "2000",
            "backup_type": "full", "source": "push", "parent_backup_id": null,
            "export_name": null, "base_change_id": null, "change_id": "sendense:x",
            "bytes_transferred": 5, "stored_bytes": 1536, "zero_bytes": 0, "covered_bytes": 9,
            "locator": "vm/disk-0/a.qcow2",
        }],
        "created_at": "2025-10-04T12:00:00Z", "started_at": null, "completed_at": null,
        "sealed_at": "2025-10-04T12:03:04Z", "verified_at": null,
        "total_bytes": 1_073_742_336_u64, "bytes_transferred": 5, "stored_bytes": 1536,
        "zero_bytes": 0, "covered_bytes": 9, "error_code": null, "error_message": null,
    })
}

#[test]
fn bytes_read_well() {
    assert_eq!(bytes(0), "0 B");
    assert_eq!(bytes(1023), "1023 B");
    assert_eq!(bytes(1536), "1.5 KiB");
    assert_eq!(bytes(10 << 30), "10.0 GiB");
    assert_eq!(bytes(u64::MAX), "16383.9 PiB");
}

#[test]
fn what_steers_a_terminal_is_not_printed() {
    assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a\u{fffd}[2Jb\u{fffd}\nc");
}

#[test]
fn the_list_has_a_line_for_each_point() {
    let list: BackupList = of(json!({
        "backups": [a_backup("backup-b"), a_backup("backup-a")], "next_cursor": null,
    }));
    let text = backups(&list);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("BACKUP"), "{text}");
    for word in [
        "backup-b",
        "pgtest2",
        "completed",
        "1.0 GiB",
        "1.5 KiB",
        "12:03:04",
    ] {
        assert!(lines[1].contains(word), "{word} in {text}");
    }
    let none: BackupList = of(json!({ "backups": [], "next_cursor": null }));
    assert_eq!(backups(&none), "no restore points");
    let page: BackupList = of(json!({ "backups": [a_backup("a")], "next_cursor": "x" }));
    assert!(backups(&page).contains("--limit"));
}

#[test]
fn one_backup_says_asked_done_why_and_where() {
    let text = backup(&of(a_backup("backup-a")));
    for line in [
        "  type        full (incremental asked): no parent",
        "  disk 0      full, 1.0 GiB (1073742336 bytes), 1.5 KiB stored",
        "    becomes   sendense:x",
        "    image     vm/disk-0/a.qcow2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

fn point(id: &str, parent: Option<&str>, sequence: u64) -> serde_json::Value {
    json!({
        "backup_id": id, "backup_type": "incremental", "parent_backup_id": parent,
        "sequence": sequence, "size_bytes": 1, "stored_bytes": 1, "change_id": null,
        "sealed_at": null, "verified_at": null,
    })
}

fn drawn(points: &serde_json::Value) -> Vec<String> {
    let points: Vec<ChainPoint> = of(points.clone());
    let tree = chain::tree(&points);
    tree.into_iter()
        .map(|(rail, p)| format!("{rail} {}", p.backup_id))
        .collect()
}

#[test]
fn a_chain_runs_straight_and_branches_hang_from_it() {
    let line = json!([
        point("f", None, 1),
        point("i1", Some("f"), 2),
        point("i2", Some("i1"), 3)
    ]);
    assert_eq!(drawn(&line), ["● f", "● i1", "● i2"]);
    let differentials = json!([
        point("f", None, 1),
        point("d1", Some("f"), 2),
        point("i1", Some("d1"), 3),
        point("d2", Some("f"), 4),
    ]);
    assert_eq!(drawn(&differentials), ["● f", "├─ d1", "│  └─ i1", "● d2"]);
    let odd = json!([point("x", Some("x"), 1), point("y", Some("lost"), 2)]);
    assert_eq!(drawn(&odd), ["● y", "? x"]);
    assert!(drawn(&json!([])).is_empty());
}

#[test]
fn chains_name_disks_points_and_the_latest() {
    let of_vm: VmChains = of(json!({
        "vm_id": "u1", "vm_name": "pgtest2", "disks": [{
            "disk_id": 0, "full_backup_id": "f", "latest_backup_id": "i1",
            "total_backups": 2, "total_size_bytes": 2048,
            "chains": [{ "chain_id": "c1", "repository": "local", "current": true,
                "backups": [point("f", None, 1), point("i1", Some("f"), 2)] }],
        }],
    }));
    let text = chains(&of_vm);
    assert!(text.contains("disk 0: 2 points, 2.0 KiB"), "{text}");
    assert!(text.contains("chain c1 in local, current"), "{text}");
    let latest: Vec<&str> = text.lines().filter(|l| l.ends_with("latest")).collect();
    assert_eq!(latest.len(), 1, "{text}");
    assert!(latest[0].contains("● i1"), "{text}");
}

#[test]
fn the_rest_is_drawn_too() {
    let gone: Deletion = of(json!({
        "dry_run": true, "deleted": [{ "backup_id": "a", "bytes": 1024 }], "freed_bytes": 1024,
        "warnings": ["the head moves back"],
    }));
    assert_eq!(
        deletion(&gone),
        "would delete a (1.0 KiB)\nwarning: the head moves back\nwould free 1.0 KiB"
    );
    let some: JobList = of(json!({ "next_cursor": null, "jobs": [{
        "job_id": "j1", "kind": "verify", "status": "running", "phase": "verifying",
        "backup_id": "a", "vm_name": "v", "target": null, "created_at": "2025-10-04T12:00:00Z",
        "started_at": null, "completed_at": null, "error_code": null, "error_message": null,
        "disks": [{ "disk_id": 0, "total_bytes": 200, "bytes_transferred": 0, "stored_bytes": 0,
            "zero_bytes": 0, "covered_bytes": 100, "rate_bps": 10, "eta_seconds": 9 }],
    }] }));
    let text = jobs(&some);
    assert!(
        text.contains("running (verifying)") && text.contains("50 %"),
        "{text}"
    );
    assert!(job(&some.jobs[0]).contains("9 s to go"));
    let changed: Reload = of(json!({
        "added": ["a"], "removed": [], "changed": ["b"], "unchanged": 3,
    }));
    assert_eq!(reload(&changed), "added a\nchanged b\n3 unchanged");
    let renewed: Reload = of(json!({
        "added": [], "removed": [], "changed": [], "unchanged": 0, "certificates": true,
        "refused": ["c: in use"],
    }));
    assert_eq!(
        reload(&renewed),
        "0 unchanged\ncertificates read again\nrefused c: in use"
    );
}
