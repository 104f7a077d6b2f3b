//! Show 6: the field's real faults (A1 to A15), each a named regression test.
//!
//! Three of them lie outside of this daemon and cannot happen in it:
//! - A6 (sampled zero detection): the agent's. Here every byte is looked at before a block counts
//!   as zero (`a6_a_single_byte_in_a_32_mib_write_survives`).
//! - A9 (jobs deleting each other's snapshots by name) and A15 (a wrong disk length from a layout
//!   file): there is no snapshot handling here, and sizes are stated in bytes by the caller and
//!   checked by coverage (`a15_a_wrong_disk_length_is_not_sealed`).

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random, to_json};
use sendense_tests::{backup, mover, oracle};
use serde_json::json;

const SIZE: u64 = 12 << 20;

fn daemon(dir: &std::path::Path) -> Daemon {
    Daemon::start(&dir.join("data"))
}

fn disk(dir: &std::path::Path, seed: u64) -> Disk {
    Disk::scattered(&dir.join(format!("disk{seed}")), SIZE, 50, seed)
}

fn write(at: u64, len: u64) -> Change {
    Change {
        at,
        len,
        act: Act::Write,
    }
}

#[test]
fn a1_each_incremental_builds_on_the_previous_one_not_on_the_full() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 1));
    let full = backup::full(&d, "vm", &disk, "u/0");
    let mut random = Random::new(2);
    let mut parent = full;
    for n in 1..=3u64 {
        let changes = [write(n << 20, 70_000)];
        disk.apply(&changes, &mut random);
        let (base, token) = (format!("u/{}", n - 1), format!("u/{n}"));
        let id = backup::delta(&d, "vm", "incremental", &disk, (&base, &token), &changes);
        let shown = d.get(&format!("/backup/{id}")).expect(200);
        assert_eq!(shown["parent_backup_id"], json!(parent), "{shown}");
        oracle::identical(&d.images(&id)[0], &disk.path);
        parent = id;
    }
}

#[test]
fn a1_a_differential_builds_on_the_full_and_the_next_incremental_on_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 2));
    let full = backup::full(&d, "vm", &disk, "u/0");
    let mut random = Random::new(3);
    let one = [write(1 << 20, 65536)];
    disk.apply(&one, &mut random);
    backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &one);
    let two = [write(2 << 20, 65536)];
    disk.apply(&two, &mut random);
    // A differential is relative to the full: it brings both changes.
    let both = [one[0], two[0]];
    let diff = backup::delta(&d, "vm", "differential", &disk, ("u/0", "u/2"), &both);
    assert_eq!(
        d.get(&format!("/backup/{diff}")).expect(200)["parent_backup_id"],
        json!(full)
    );
    oracle::identical(&d.images(&diff)[0], &disk.path);
    let three = [write(3 << 20, 65536)];
    disk.apply(&three, &mut random);
    let last = backup::delta(&d, "vm", "incremental", &disk, ("u/2", "u/3"), &three);
    assert_eq!(
        d.get(&format!("/backup/{last}")).expect(200)["parent_backup_id"],
        json!(diff)
    );
    oracle::identical(&d.images(&last)[0], &disk.path);
}

#[test]
fn a2_a_delta_pushed_into_a_full_is_refused_with_the_missing_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 3));
    backup::full(&d, "vm", &disk, "u/0");
    let started = d.start_backup(&backup::full_request("vm", &disk));
    mover::send_changes(
        &disk,
        &backup::uri(&started, 0),
        &[write(1 << 20, 65536)],
        1,
        1,
    );
    let id = backup::id(&started);
    let refused = d
        .post(
            &format!("/backup/{id}/complete?wait=60"),
            &json!({ "disks": [{ "disk_id": 0 }] }),
        )
        .expect(409);
    assert_eq!(refused["code"], "incomplete_coverage", "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("1048576") && said.contains("1114112"),
        "the ranges are named: {said}"
    );
    // The mover may send the rest and complete again.
    mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    d.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::identical(&d.images(&id)[0], &disk.path);
}

#[test]
fn a3_a_token_of_another_chain_is_refused_and_both_tokens_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 4));
    let full = backup::full(&d, "vm", &disk, "mine/7");
    let request = backup::delta_request("vm", "incremental", &disk, "other/9", &[write(0, 512)]);
    let refused = d.post("/backup/start", &request).expect(409);
    assert_eq!(refused["code"], "base_token_mismatch", "{refused}");
    let said = refused.to_string();
    for word in ["mine/7", "other/9", &full] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(!said.contains("ChangeToken"), "a person reads this: {said}");
    let mut request = request;
    request["allow_full"] = json!(true);
    let started = d.start_backup(&request);
    assert_eq!(started["requested_type"], "incremental", "{started}");
    assert_eq!(started["backup_type"], "full", "{started}");
    assert!(!started["reason"].as_str().unwrap().is_empty(), "{started}");
}

#[test]
fn a3_two_vms_with_one_name_are_never_mixed() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let vm = |n: u64| {
        d.post(
            "/vms",
            &json!({
                "name": "twin", "uuid": format!("564d0000-0000-4000-8000-00000000000{n}"),
                "disks": [{ "disk_id": 0, "size_bytes": SIZE, "device_key": "2000" }],
            }),
        )
        .expect(201)
    };
    let (a, b) = (vm(1), vm(2));
    let request = |id: &serde_json::Value| {
        json!({
            "vm_id": id, "backup_type": "full", "repository": "local",
            "disks": [{ "disk_id": 0, "size_bytes": SIZE, "device_key": "2000" }],
        })
    };
    let refused = d
        .post(
            "/backup/start",
            &json!({ "vm_name": "twin", "backup_type": "full", "repository": "local",
                     "disks": [{ "disk_id": 0, "size_bytes": SIZE }] }),
        )
        .expect(409);
    let said = refused.to_string();
    for vm in [&a, &b] {
        assert!(said.contains(vm["vm_id"].as_str().unwrap()), "{said}");
    }
    for (n, vm) in [&a, &b].into_iter().enumerate() {
        let disk = disk(dir.path(), 60 + n as u64);
        let started = d.start_backup(&request(&vm["vm_id"]));
        mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
        let id = backup::id(&started);
        d.complete(&id, &json!([{ "disk_id": 0, "change_id": format!("{n}") }]));
        oracle::identical(&d.images(&id)[0], &disk.path);
    }
    // The token of one is no base for the other.
    let mut delta = backup::delta_request("twin", "incremental", &disk(dir.path(), 62), "0", &[]);
    delta.as_object_mut().unwrap().remove("vm_name");
    delta["vm_id"] = b["vm_id"].clone();
    delta["disks"][0]["device_key"] = json!("2000");
    d.post("/backup/start", &delta).expect(409);
}

#[test]
fn a4_a5_disks_are_told_apart_by_device_key_not_by_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let (one, two) = (disk(dir.path(), 5), disk(dir.path(), 6));
    let request = |kind: &str, disks: serde_json::Value| json!({ "vm_name": "keys", "backup_type": kind, "repository": "local", "disks": disks });
    let started = d.start_backup(&request(
        "full",
        json!([
            { "disk_id": 0, "size_bytes": SIZE, "device_key": "2000" },
            { "disk_id": 1, "size_bytes": SIZE, "device_key": "2016" },
        ]),
    ));
    mover::nbdcopy(&one, &backup::uri(&started, 0)).ok();
    mover::nbdcopy(&two, &backup::uri(&started, 1)).ok();
    let tokens =
        json!([{ "disk_id": 0, "change_id": "a/1" }, { "disk_id": 1, "change_id": "b/1" }]);
    d.complete(&backup::id(&started), &tokens);

    // Disk 1's key under disk 0's number (reordered on the host): refused, or a full; never a
    // delta on top of the other disk.
    let swapped = json!([{
        "disk_id": 0, "size_bytes": SIZE, "device_key": "2016", "base_change_id": "a/1",
        "changes": to_json(&[write(0, 512)]),
    }]);
    let answer = d.post("/backup/start", &request("incremental", swapped));
    assert!(
        answer.status == 409 || answer.body["backup_type"] == "full",
        "{} {}",
        answer.status,
        answer.body
    );
}

#[test]
fn a6_a_single_byte_in_a_32_mib_write_survives() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let disk = Disk::empty(&dir.path().join("d"), 32 << 20);
    disk.write(17_654_321, &[1]);
    let started = d.start_backup(&backup::full_request("vm", &disk));
    let plan = json!({
        "connections": 1, "window": 1,
        "ops": [{ "conn": 0, "op": "write", "at": 0, "len": 32 << 20 }],
    });
    assert!(
        mover::send(&disk.path, &backup::uri(&started, 0), &plan)
            .errors
            .is_empty()
    );
    let id = backup::id(&started);
    let sealed = d.complete(&id, &json!([{ "disk_id": 0 }]));
    oracle::identical(&d.images(&id)[0], &disk.path);
    assert!(
        sealed["stored_bytes"].as_u64().unwrap() <= 8 * 65536,
        "{sealed}"
    );
}

#[test]
fn a7_a_token_counts_only_once_the_point_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (d, disk) = (Daemon::start(&data), disk(dir.path(), 7));
    let full = backup::full(&d, "vm", &disk, "u/0");
    let changes = [write(1 << 20, 65536)];
    disk.apply(&changes, &mut Random::new(1));
    let request = backup::delta_request("vm", "incremental", &disk, "u/0", &changes);
    let started = d.start_backup(&request);
    mover::send_changes(&disk, &backup::uri(&started, 0), &changes, 1, 1);
    d.kill();

    // The daemon died before the seal: the head and its token are the old ones.
    let d = Daemon::start(&data);
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    assert_eq!(
        chain["disks"][0]["latest_backup_id"],
        json!(full),
        "{chain}"
    );
    let lost = d
        .get(&format!("/jobs/{}", backup::id(&started)))
        .expect(200);
    assert_eq!(lost["status"], "failed", "{lost}");
    let id = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &changes);
    oracle::identical(&d.images(&id)[0], &disk.path);
}

#[test]
fn a8_one_request_starts_all_disks_of_one_restore_point() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let started = d.start_backup(&json!({
        "vm_name": "vm", "backup_type": "full", "repository": "local",
        "disks": [{ "disk_id": 0, "size_bytes": SIZE }, { "disk_id": 1, "size_bytes": SIZE }],
    }));
    assert_eq!(started["disks"].as_array().unwrap().len(), 2, "{started}");
}

#[test]
fn a9_a_second_job_on_a_disk_that_is_being_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 8));
    let started = d.start_backup(&backup::full_request("vm", &disk));
    let refused = d
        .post("/backup/start", &backup::full_request("vm", &disk))
        .expect(409);
    assert!(
        refused.to_string().contains(&backup::id(&started)),
        "the holder is named: {refused}"
    );
    mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    d.complete(&backup::id(&started), &json!([{ "disk_id": 0 }]));
}

#[test]
fn a11_a_failed_backup_never_moves_the_head_and_is_nobodys_parent() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 9));
    let full = backup::full(&d, "vm", &disk, "u/0");
    let request = backup::delta_request("vm", "incremental", &disk, "u/0", &[write(0, 65536)]);
    let started = d.start_backup(&request);
    d.post(
        &format!("/backup/{}/cancel", backup::id(&started)),
        &json!({}),
    )
    .expect(200);
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    assert_eq!(
        chain["disks"][0]["latest_backup_id"],
        json!(full),
        "{chain}"
    );
    oracle::identical(&d.images(&full)[0], &disk.path);
}

#[test]
fn a12_a_new_full_starts_a_new_chain_and_the_old_one_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 10));
    backup::full(&d, "vm", &disk, "u/0");
    let changes = [write(1 << 20, 65536)];
    disk.apply(&changes, &mut Random::new(1));
    let incr = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &changes);
    let kept = disk.keep(&dir.path().join("kept"));
    disk.apply(&[write(3 << 20, 65536)], &mut Random::new(2));
    let second = backup::full(&d, "vm", &disk, "u/2");
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    let chains = chain["disks"][0]["chains"].as_array().unwrap();
    assert_eq!(chains.len(), 2, "{chain}");
    assert_eq!(
        chain["disks"][0]["full_backup_id"],
        json!(second),
        "{chain}"
    );
    oracle::identical(&d.images(&incr)[0], &kept);
    oracle::identical(&d.images(&second)[0], &disk.path);
}

#[test]
fn a13_a_disk_of_a_fractional_gib_keeps_its_exact_size() {
    let dir = tempfile::tempdir().unwrap();
    let d = daemon(dir.path());
    let disk = Disk::empty(&dir.path().join("d"), (1 << 30) + 12_345 * 512);
    disk.write(disk.size() - 700, &[3; 700]);
    let id = backup::full(&d, "vm", &disk, "u/0");
    assert_eq!(
        oracle::info(&d.images(&id)[0])["virtual-size"],
        json!(disk.size())
    );
    oracle::identical(&d.images(&id)[0], &disk.path);
}

#[test]
fn a14_a_shrunk_disk_is_a_full_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 12));
    backup::full(&d, "vm", &disk, "u/0");
    let smaller = Disk::scattered(&dir.path().join("smaller"), SIZE - (1 << 20), 50, 13);
    let mut request = backup::delta_request("vm", "incremental", &smaller, "u/0", &[]);
    request["allow_full"] = json!(true);
    let started = d.start_backup(&request);
    assert_eq!(started["backup_type"], "full", "{started}");
    assert!(
        started["reason"].as_str().unwrap().contains("shr"),
        "{started}"
    );
}

#[test]
fn a15_a_wrong_disk_length_is_not_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (d, disk) = (daemon(dir.path()), disk(dir.path(), 14));
    let mut request = backup::full_request("vm", &disk);
    request["disks"][0]["size_bytes"] = json!(SIZE + (1 << 20));
    let started = d.start_backup(&request);
    mover::send(
        &disk.path,
        &backup::uri(&started, 0),
        &json!({ "connections": 1, "window": 1,
                 "ops": [{ "conn": 0, "op": "write", "at": 0, "len": SIZE }] }),
    );
    let refused = d
        .post(
            &format!("/backup/{}/complete?wait=60", backup::id(&started)),
            &json!({ "disks": [{ "disk_id": 0 }] }),
        )
        .expect(409);
    assert_eq!(refused["code"], "incomplete_coverage", "{refused}");
}

#[test]
fn a10_order_is_a_sequence_number_not_a_clock_or_a_name() {
    // Two points within one second, and a restart between them: the second is the head.
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (d, disk) = (Daemon::start(&data), disk(dir.path(), 15));
    backup::full(&d, "vm", &disk, "u/0");
    let changes = [write(0, 65536)];
    disk.apply(&changes, &mut Random::new(1));
    let second = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &changes);
    d.stop();
    let d = Daemon::start(&data);
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    assert_eq!(
        chain["disks"][0]["latest_backup_id"],
        json!(second),
        "{chain}"
    );
    assert_eq!(chain["disks"][0]["total_backups"], json!(2), "{chain}");
}
