//! What is known of restore points over time: which is the newest, and which are damaged.

use std::path::Path;

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random};
use sendense_tests::{backup, oracle};
use serde_json::{Value, json};

fn write(at: u64, len: u64) -> Change {
    Change {
        at,
        len,
        act: Act::Write,
    }
}

/// The CRC-32 that zip and Ethernet use.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Says in a manifest that its point was made in another year. Its own checksum is right again.
fn remake_in(manifest: &Path, year: &str) {
    let text = std::fs::read_to_string(manifest).unwrap();
    let begin = r#""crc32": ""#;
    // The last one is the manifest's own.
    let digits = text.rfind(begin).unwrap() + begin.len();
    let mut text: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in &mut text {
        for key in [r#"  "started_at": ""#, r#"  "sealed_at": ""#] {
            if let Some(value) = line.strip_prefix(key) {
                *line = format!("{key}{year}{}", &value[4..]);
            }
        }
    }
    let mut text = text.join("\n") + "\n";
    text.replace_range(digits..digits + 8, "00000000");
    let crc = format!("{:08x}", crc32(text.as_bytes()));
    text.replace_range(digits..digits + 8, &crc);
    std::fs::write(manifest, text).unwrap();
}

fn ids(list: &Value) -> Vec<String> {
    let backups = list["backups"].as_array().unwrap();
    let id = |b: &Value| b["backup_id"].as_str().unwrap().to_owned();
    backups.iter().map(id).collect()
}

#[test]
fn after_a_clock_was_set_back_latest_and_the_list_still_follow_the_order_of_the_seals() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 4 << 20, 60, 1);
    let a = backup::full(&d, "vm", &disk, "u/0");
    let changes = [write(1 << 20, 65536)];
    disk.apply(&changes, &mut Random::new(2));
    let b = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &changes);
    let vm = d.get(&format!("/backup/{a}")).expect(200)["vm_id"].clone();
    d.stop();
    // The first was made by a clock that ran far ahead, and is all that the catalog can learn.
    let points = data
        .join("backups")
        .join(vm.as_str().unwrap())
        .join("points");
    remake_in(&points.join(format!("{a}.json")), "2099");
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(data.join(file));
    }
    let d = Daemon::start(&data);
    let first = d.get(&format!("/backup/{a}")).expect(200);
    assert!(
        first["sealed_at"].as_str().unwrap().starts_with("2099"),
        "{first}"
    );
    let list = d.get("/backup/list?vm_name=vm").expect(200);
    assert_eq!(ids(&list), [b.clone(), a.clone()]);
    let latest = d.get("/backup/latest?vm_name=vm").expect(200);
    assert_eq!(latest["backup_id"], json!(b));
    let out = dir.path().join("out");
    d.restore("latest", 0, &out);
    oracle::same_bytes(&out, &disk.path);

    // By the clock of today the next one is older than the first, and it is the newest.
    let changes = [write(2 << 20, 65536)];
    disk.apply(&changes, &mut Random::new(3));
    let c = backup::delta(&d, "vm", "incremental", &disk, ("u/1", "u/2"), &changes);
    let page = d.get("/backup/list?vm_name=vm&limit=2").expect(200);
    assert_eq!(ids(&page), [c.clone(), b]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = d.get(&format!("/backup/list?vm_name=vm&limit=2&cursor={cursor}"));
    assert_eq!(ids(&page.expect(200)), [a]);
    let latest = d.get("/backup/latest?vm_name=vm").expect(200);
    assert_eq!(latest["backup_id"], json!(c));
}

#[test]
fn damage_that_was_found_is_told_by_list_show_and_health() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 80, 1);
    let id = backup::full(&d, "vm", &disk, "u/0");
    d.ctl(&["backup", "verify", "--backup-id", &id]).ok();
    let image = Disk::open(&d.images(&id)[0]);
    let byte = image.read(3 << 20, 1)[0];
    image.write(3 << 20, &[byte ^ 0x10]);
    assert_eq!(d.ctl(&["backup", "verify", "--backup-id", &id]).code, 15);
    d.stop();
    let d = Daemon::start(&data);
    let shown = d.get(&format!("/backup/{id}")).expect(200);
    assert_eq!(shown["verified_at"], Value::Null, "{shown}");
    assert!(
        shown["damage"].as_str().unwrap().contains(".qcow2"),
        "{shown}"
    );
    assert_eq!(d.get("/health").expect(200)["status"], "degraded");
    let list = d.ctl(&["backup", "list", "--vm", "vm"]).ok();
    assert!(list.stdout.contains("damaged"), "{}", list.stdout);
    let health = d.ctl(&["health"]).ok();
    assert!(
        health.stdout.contains("1 restore point is damaged"),
        "{}",
        health.stdout
    );

    // Whole again: a verification that reads all of it takes that back.
    image.write(3 << 20, &[byte]);
    d.ctl(&["backup", "verify", "--backup-id", &id]).ok();
    let shown = d.get(&format!("/backup/{id}")).expect(200);
    assert_eq!(shown["damage"], Value::Null, "{shown}");
    assert_ne!(shown["verified_at"], Value::Null, "{shown}");
    assert_eq!(d.get("/health").expect(200)["status"], "ok");
}

#[test]
fn an_increment_on_a_damaged_parent_is_refused_or_becomes_a_full() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 4 << 20, 80, 1);
    let id = backup::full(&d, "vm", &disk, "u/0");
    std::fs::remove_file(&d.images(&id)[0]).unwrap();
    let mut request = backup::delta_request("vm", "incremental", &disk, "u/0", &[write(0, 65536)]);
    let refused = d.post("/backup/start", &request).expect(409);
    assert_eq!(refused["code"], "no_parent", "{refused}");
    assert!(
        refused["detail"].as_str().unwrap().contains(&id),
        "{refused}"
    );
    request["allow_full"] = json!(true);
    let started = d.start_backup(&request);
    assert_eq!(started["backup_type"], "full", "{started}");
    assert!(
        started["reason"].as_str().unwrap().contains(&id),
        "{started}"
    );
    sendense_tests::mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    let full = backup::id(&started);
    d.complete(&full, &json!([{ "disk_id": 0, "change_id": "u/1" }]));
    oracle::identical(&d.images(&full)[0], &disk.path);
}

#[test]
fn an_increment_on_a_parent_that_verify_found_damaged_is_refused_or_becomes_a_full() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 80, 1);
    let id = backup::full(&d, "vm", &disk, "u/0");
    let image = Disk::open(&d.images(&id)[0]);
    let byte = image.read(3 << 20, 1)[0];
    image.write(3 << 20, &[byte ^ 0x10]);
    assert_eq!(d.ctl(&["backup", "verify", "--backup-id", &id]).code, 15);
    let mut request = backup::delta_request("vm", "incremental", &disk, "u/0", &[write(0, 65536)]);
    let refused = d.post("/backup/start", &request).expect(409);
    assert_eq!(refused["code"], "no_parent", "{refused}");
    request["allow_full"] = json!(true);
    let started = d.start_backup(&request);
    assert_eq!(started["backup_type"], "full", "{started}");
    d.post(
        &format!("/backup/{}/cancel", backup::id(&started)),
        &json!({}),
    )
    .expect(200);
    // Whole again, and it carries once more.
    image.write(3 << 20, &[byte]);
    d.ctl(&["backup", "verify", "--backup-id", &id]).ok();
    let started = d.start_backup(&request);
    assert_eq!(started["backup_type"], "incremental", "{started}");
}

#[test]
fn a_point_whose_manifest_is_lost_does_not_keep_its_parent_from_being_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 4 << 20, 80, 1);
    let full = backup::full(&d, "vm", &disk, "u/0");
    let change = [write(0, 65536)];
    let one = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &change);
    let two = backup::delta(&d, "vm", "incremental", &disk, ("u/1", "u/2"), &change);
    let vm = d.get(&format!("/backup/{full}")).expect(200)["vm_id"].clone();
    d.stop();
    let manifest = format!("backups/{}/points/{two}.json", vm.as_str().unwrap());
    std::fs::remove_file(data.join(manifest)).unwrap();
    let d = Daemon::start(&data);
    d.ctl(&["backup", "delete", &one, "--yes"]).ok();
    assert_eq!(
        ids(&d.get("/backup/list?vm_name=vm").expect(200)),
        [two, full]
    );
}

#[test]
fn damage_of_a_layer_is_told_of_every_point_that_reads_it_and_outlives_a_lost_note() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let d = Daemon::start(&data);
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 80, 1);
    let full = backup::full(&d, "vm", &disk, "u/0");
    let change = [write(0, 65536)];
    let one = backup::delta(&d, "vm", "incremental", &disk, ("u/0", "u/1"), &change);
    let two = backup::delta(&d, "vm", "incremental", &disk, ("u/1", "u/2"), &change);
    d.ctl(&["backup", "verify", "--backup-id", &full]).ok();
    let image = Disk::open(&d.images(&full)[0]);
    let byte = image.read(3 << 20, 1)[0];
    image.write(3 << 20, &[byte ^ 0x10]);
    assert_eq!(d.ctl(&["backup", "verify", "--backup-id", &two]).code, 15);
    let shown = |d: &Daemon, id: &str| d.get(&format!("/backup/{id}")).expect(200);
    for id in [&full, &one, &two] {
        assert_ne!(shown(&d, id)["damage"], Value::Null, "{id}");
        assert_eq!(shown(&d, id)["verified_at"], Value::Null, "{id}");
    }
    // The head that was looked at goes; what it stood on carries nothing either.
    d.ctl(&["backup", "delete", &two, "--yes"]).ok();
    let request = backup::delta_request("vm", "incremental", &disk, "u/1", &change);
    let refused = d.post("/backup/start", &request).expect(409);
    assert_eq!(refused["code"], "no_parent", "{refused}");
    // The full's own notes know of a good verification alone; that was before.
    d.stop();
    let d = Daemon::start(&data);
    assert_ne!(shown(&d, &full)["damage"], Value::Null);
    image.write(3 << 20, &[byte]);
    d.ctl(&["backup", "verify", "--backup-id", &full]).ok();
    assert_eq!(shown(&d, &full)["damage"], Value::Null);
}
