//! Lines as they are typed, against a daemon that is none and a disk in memory.

use std::path::Path;

use clap::CommandFactory;
use serde_json::{Value, json};

use super::*;
use crate::client::fake::Fake;
use crate::mover::tests::{ram_disk, sparse_file};
use crate::types::{Code, Problem};

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_promised_lines_parse() {
    for line in [
        "backup start --vm pgtest2 --type full",
        "backup list --vm pgtest2",
        "backup chain --vm pgtest2",
        "backup push --vm web1 --disk 0=./disk.img",
        "backup push --vm web1 --disk 0=./disk.img --type incremental --changes 0=changes.json",
        "backup push --vm web1 --disk 0=a --disk 1=b --base-change-id 0=t --change-id 1=u \
         --device-key 0=k --allow-full --fail-on-full",
        "backup restore --backup-id ID --disk 0 --to disk.raw",
        "backup restore --backup-id ID --disk 0 --to /dev/sdz --force",
        "backup export --backup-id ID --disk 0",
        "backup exports",
        "backup unexport ID",
        "backup show latest --vm web1",
        "backup delete ID --dry-run --with-dependents --yes",
        "backup cancel ID",
        "backup complete ID --disk 0=token",
        "backup complete --backup-id ID --wait",
        "backup verify ID",
        "vm add web1 --disk 0=10G",
        "vm list --json",
        "vm show web1",
        "job list --format json",
        "job show ID",
        "job watch ID",
        "repo list",
        "exports list",
        "exports reload",
        "health",
    ] {
        let args = std::iter::once("sendense-ctl").chain(line.split_whitespace());
        Cli::try_parse_from(args).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

#[test]
fn the_examples_of_the_help_texts_parse() {
    let all = [
        examples::START,
        examples::PUSH,
        examples::LIST,
        examples::COMPLETE,
        examples::DELETE,
        examples::RESTORE,
        examples::VERIFY,
    ];
    let lines = all.iter().flat_map(|text| text.lines().skip(1));
    for line in lines {
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// Runs a line against a daemon; its exit code.
fn ctl(fake: &Fake, line: &[&str]) -> (u8, String) {
    let args = ["sendense-ctl", "--json", "--url", &fake.url];
    let cli = Cli::try_parse_from(args.into_iter().chain(line.iter().copied())).unwrap();
    match run(cli) {
        Ok(()) => (0, String::new()),
        Err(e) => (e.code, format!("{} {:?}", e.message, e.notes)),
    }
}

fn problem(code: Code) -> Value {
    serde_json::to_value(Problem::new(code, "why")).unwrap()
}

fn backup(status: &str, kind: &str, uri: &str, size: u64) -> Value {
    json!({
        "backup_id": "backup-v-1", "vm_id": "u1", "vm_name": "v", "repository": "local",
        "requested_type": "incremental", "backup_type": kind, "reason": "because",
        "status": status, "parent_backup_id": null,
        "disks": [{
            "disk_id": 0, "size_bytes": size, "device_key": "disk-0", "backup_type": kind,
            "source": "push", "parent_backup_id": null, "export_name": null, "nbd_uris": [uri],
            "base_change_id": null, "change_id": null, "bytes_transferred": 0, "stored_bytes": 0,
            "zero_bytes": 0, "covered_bytes": 0, "locator": null,
        }],
        "created_at": "2025-10-04T12:00:00Z", "started_at": null, "completed_at": null,
        "sealed_at": null, "verified_at": null, "total_bytes": size, "bytes_transferred": 0,
        "stored_bytes": 0, "zero_bytes": 0, "covered_bytes": 0, "error_code": null,
        "error_message": null,
    })
}

fn export(uri: &str, size: u64) -> Value {
    json!({
        "export_id": "e1", "backup_id": "backup-v-1", "disk_id": 0, "size_bytes": size,
        "export_name": "disk", "nbd_uris": [uri], "connections": 0,
        "expires_at": "2025-10-04T12:00:00Z",
    })
}

/// A daemon that takes one disk of `size` and gives it back.
fn daemon(uri: &str, size: u64, kind: &str, complete: (u16, Value)) -> Fake {
    Fake::new(vec![
        ("GET /backup/chain", 404, problem(Code::VmNotFound)),
        (
            "POST /backup/start",
            202,
            backup("running", kind, uri, size),
        ),
        ("POST /backup/backup-v-1/complete", complete.0, complete.1),
        (
            "POST /backup/backup-v-1/cancel",
            200,
            backup("cancelled", kind, uri, size),
        ),
        (
            "GET /backup/backup-v-1",
            200,
            backup("completed", kind, uri, size),
        ),
        ("POST /restore/export", 200, export(uri, size)),
        ("DELETE /restore/export/e1", 200, export(uri, size)),
    ])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn push_starts_sends_completes_and_restore_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("disk.img"), dir.path().join("out.raw"));
    let size = sparse_file(&from);
    let uri = ram_disk(size);
    let fake = daemon(
        &uri,
        size,
        "full",
        (200, backup("completed", "full", &uri, size)),
    );
    let disk = format!("0={}", text(&from));
    let line = [
        "backup",
        "push",
        "--vm",
        "v",
        "--disk",
        &disk,
        "--change-id",
        "0=t/1",
    ];
    assert_eq!(ctl(&fake, &line).0, 0);
    let start = fake.one("POST /backup/start").body;
    assert_eq!(start["vm_name"], "v");
    assert_eq!(start["disks"][0]["size_bytes"], size);
    assert_eq!(start["disks"][0]["source"], "push");
    let complete = fake.one("POST /backup/backup-v-1/complete").body;
    assert_eq!(
        complete["disks"],
        json!([{ "disk_id": 0, "change_id": "t/1" }])
    );

    let line = [
        "backup",
        "restore",
        "--backup-id",
        "backup-v-1",
        "--disk",
        "0",
        "--to",
        text(&to),
    ];
    assert_eq!(ctl(&fake, &line).0, 0);
    assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
    fake.one("DELETE /restore/export/e1");
    // Nothing is overwritten unasked, and nothing is asked of the daemon for it.
    let before = fake.asked().len();
    assert_eq!(ctl(&fake, &line).0, 1);
    assert_eq!(fake.asked().len(), before);
    let again: Vec<&str> = line.into_iter().chain(["--force", "--yes"]).collect();
    assert_eq!(ctl(&fake, &again).0, 0);
    let mut other = line;
    other[5] = "7";
    other[7] = "/nowhere/out";
    assert_eq!(ctl(&fake, &other).0, 10, "there is no disk 7");
}

#[test]
fn a_full_where_an_incremental_was_asked_is_sent_whole_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("disk.img"), dir.path().join("out.raw"));
    let size = sparse_file(&from);
    let uri = ram_disk(size);
    let list = dir.path().join("changes.json");
    std::fs::write(&list, r#"[{"offset":0,"length":512}]"#).unwrap();
    let fake = daemon(
        &uri,
        size,
        "full",
        (200, backup("completed", "full", &uri, size)),
    );
    let (disk, changes) = (format!("0={}", text(&from)), format!("0={}", text(&list)));
    let line = [
        "backup",
        "push",
        "--vm",
        "v",
        "--disk",
        &disk,
        "--type",
        "incremental",
        "--changes",
        &changes,
        "--allow-full",
    ];
    assert_eq!(ctl(&fake, &line).0, 0);
    let with_flag: Vec<&str> = line.into_iter().chain(["--fail-on-full"]).collect();
    assert_eq!(ctl(&fake, &with_flag).0, 3);
    let start = fake.one("POST /backup/start").body;
    assert_eq!(start["allow_full"], true);
    assert_eq!(
        start["disks"][0]["changes"],
        json!([{ "offset": 0, "length": 512 }])
    );
    let line = [
        "backup",
        "restore",
        "backup-v-1",
        "--disk",
        "0",
        "--to",
        text(&to),
    ];
    assert_eq!(ctl(&fake, &line).0, 0);
    assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
}

#[test]
fn one_disk_that_became_a_full_is_enough_to_fail_on_full() {
    let disk = |n: u32, kind: &str| {
        let mut disk = backup("completed", kind, "nbd://x/y", 4096)["disks"][0].take();
        disk["disk_id"] = json!(n);
        disk
    };
    let of = |asked: &str, done: &str, disks: Value| {
        let mut b = backup("completed", done, "nbd://x/y", 4096);
        b["requested_type"] = json!(asked);
        b["disks"] = disks;
        serde_json::from_value::<crate::types::Backup>(b).unwrap()
    };
    let mixed = json!([disk(0, "incremental"), disk(4, "full")]);
    let both = json!([disk(0, "incremental"), disk(4, "incremental")]);
    let b = of("incremental", "incremental", mixed.clone());
    let e = backup::check_full(true, &b).unwrap_err();
    assert_eq!(e.code, 3);
    assert!(e.message.contains("disk 4"), "{}", e.message);
    backup::check_full(false, &b).unwrap();
    backup::check_full(true, &of("incremental", "incremental", both)).unwrap();
    backup::check_full(true, &of("full", "full", mixed)).unwrap();
}

#[test]
fn a_push_that_fails_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("disk.img");
    let size = sparse_file(&from);
    let disk = format!("0={}", text(&from));
    let line = ["backup", "push", "--vm", "v", "--disk", &disk];
    let uri = ram_disk(size);
    for (uri, complete, code) in [
        ("nbd://127.0.0.1:1/disk", (200, json!({})), 1),
        (&*uri, (409, problem(Code::IncompleteCoverage)), 1),
        (&*uri, (507, problem(Code::NoSpace)), 14),
    ] {
        let fake = daemon(uri, size, "full", complete);
        let (found, message) = ctl(&fake, &line);
        assert_eq!(found, code, "{message}");
        assert!(message.contains("backup-v-1 is cancelled"), "{message}");
        fake.one("POST /backup/backup-v-1/cancel");
    }
}

#[test]
fn a_long_change_list_goes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("disk.img");
    let size = sparse_file(&from);
    let list = dir.path().join("changes.json");
    let many: Vec<Value> = (0..5000)
        .map(|n| json!({ "offset": n * 1024, "length": 512 }))
        .collect();
    std::fs::write(&list, Value::from(many).to_string()).unwrap();
    let uri = ram_disk(size);
    let point = backup("completed", "incremental", &uri, size);
    let mut answers = vec![("PUT /backup/backup-v-1/disks/0/changes", 200, point.clone())];
    answers.push(("GET /backup/chain", 404, problem(Code::VmNotFound)));
    answers.push((
        "POST /backup/start",
        202,
        backup("running", "incremental", &uri, size),
    ));
    answers.push(("POST /backup/backup-v-1/complete", 200, point));
    let fake = Fake::new(answers);
    let (disk, changes) = (format!("0={}", text(&from)), format!("0={}", text(&list)));
    let line = [
        "backup",
        "push",
        "--vm",
        "v",
        "--disk",
        &disk,
        "--type",
        "incremental",
        "--changes",
        &changes,
    ];
    let (code, message) = ctl(&fake, &line);
    assert_eq!(code, 0, "{message}");
    assert!(fake.one("POST /backup/start").body["disks"][0]["changes"].is_null());
    assert_eq!(fake.one("PUT").body.as_array().unwrap().len(), 5000);
}

#[test]
fn refusals_end_with_their_codes() {
    for (code, exit) in [
        (Code::Unauthenticated, 5),
        (Code::BackupNotFound, 10),
        (Code::NotAllowed, 12),
        (Code::Busy, 16),
    ] {
        let fake = Fake::new(vec![("GET", code.status(), problem(code))]);
        assert_eq!(ctl(&fake, &["backup", "show", "x"]).0, exit);
    }
    let mut nobody = Fake::new(vec![]);
    for (url, exit) in [
        ("http://127.0.0.1:1", 4),
        ("", 64),
        ("127.0.0.1:8082", 64),
        ("http://", 64),
        ("https://host", 64),
    ] {
        nobody.url = url.into();
        assert_eq!(ctl(&nobody, &["backup", "list"]).0, exit, "{url}");
    }
}

#[test]
fn damage_that_verify_finds_is_15() {
    let job = |status: &str, code: Value| {
        json!({
            "job_id": "j1", "kind": "verify", "status": status, "phase": null, "backup_id": "b",
            "vm_name": "v", "target": null, "created_at": "2025-10-04T12:00:00Z",
            "started_at": null, "completed_at": null, "error_code": code,
            "error_message": "one cluster is damaged", "disks": [],
        })
    };
    for (status, code, exit) in [
        ("failed", json!("damaged"), 15),
        ("failed", json!("storage_error"), 1),
        ("cancelled", json!(null), 1),
        ("completed", json!(null), 0),
    ] {
        let fake = Fake::new(vec![
            ("GET /backup/", 200, backup("completed", "full", "", 1)),
            ("POST /backup/", 202, job("running", json!(null))),
            ("GET /jobs/j1", 200, job(status, code)),
        ]);
        assert_eq!(ctl(&fake, &["backup", "verify", "b"]).0, exit, "{status}");
    }
}
