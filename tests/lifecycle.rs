//! The daily verbs: list, show, chain, delete, restore of a whole disk, verify.

use sendense_tests::daemon::Daemon;
use sendense_tests::disk::{Act, Change, Disk, Random};
use sendense_tests::{backup, mover, oracle};
use serde_json::json;

#[test]
fn the_middle_of_a_chain_is_not_deleted_and_the_head_gives_its_token_back() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    let ids = backup::chain_of_three(&d, &disk);
    let refused = d.delete(&format!("/backup/{}", ids[1])).expect(409);
    assert!(
        refused.to_string().contains(&ids[2]),
        "dependents are named: {refused}"
    );
    let dry = d
        .delete(&format!(
            "/backup/{}?with_dependents=true&dry_run=true",
            ids[1]
        ))
        .expect(200);
    assert!(dry.to_string().contains(&ids[2]), "{dry}");
    assert_eq!(
        d.get("/backup/list?vm_name=vm").expect(200)["backups"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let image = d.images(&ids[2]).remove(0);
    assert!([200, 202, 204].contains(&d.delete(&format!("/backup/{}", ids[2])).status));
    assert!(!image.exists());
    let chain = d.get("/backup/chain?vm_name=vm").expect(200);
    assert_eq!(
        chain["disks"][0]["latest_backup_id"],
        json!(ids[1]),
        "{chain}"
    );
    // The agent has moved on to u/2: its next incremental is refused, one from u/1 is taken.
    let stale = backup::delta_request("vm", "incremental", &disk, "u/2", &[]);
    d.post("/backup/start", &stale).expect(409);
    let changes = [Change {
        at: 2 << 20,
        len: 65536,
        act: Act::Write,
    }];
    let again = backup::delta(&d, "vm", "incremental", &disk, ("u/1", "u/9"), &changes);
    oracle::identical(&d.images(&again)[0], &disk.path);
}

#[test]
fn an_exported_point_is_not_deleted_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    let id = backup::full(&d, "vm", &disk, "u/0");
    let export = d
        .post("/restore/export", &json!({ "backup_id": id, "disk_id": 0 }))
        .expect(201);
    d.delete(&format!("/backup/{id}")).expect(409);
    let export = export["export_id"].as_str().unwrap();
    assert!(d.delete(&format!("/restore/export/{export}")).status < 300);
    assert!(d.delete(&format!("/backup/{id}")).status < 300);
}

#[test]
fn the_command_line_pushes_lists_restores_verifies_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d.raw"), (24 << 20) + 512, 40, 3);
    let at = format!("0={}", disk.path.display());
    let pushed = d
        .ctl(&["backup", "push", "--vm", "cli", "--disk", &at, "--json"])
        .ok();
    assert!(pushed.stdout.contains("backup-cli-"), "{}", pushed.stdout);
    let list = d
        .ctl(&["backup", "list", "--vm", "cli", "--json"])
        .ok()
        .json();
    let id = list["backups"][0]["backup_id"].as_str().unwrap().to_owned();
    oracle::identical(&d.images(&id)[0], &disk.path);

    let table = d.ctl(&["backup", "list", "--vm", "cli"]).ok();
    assert!(table.stdout.contains(&id), "{}", table.stdout);
    d.ctl(&["backup", "chain", "--vm", "cli"]).ok();
    d.ctl(&["backup", "show", "--backup-id", "latest", "--vm", "cli"])
        .ok();
    d.ctl(&["backup", "verify", "--backup-id", &id]).ok();

    let changes = vec![Change {
        at: 3 << 20,
        len: 512,
        act: Act::Write,
    }];
    disk.apply(&changes, &mut Random::new(4));
    let file = dir.path().join("changes.json");
    std::fs::write(&file, sendense_tests::disk::to_json(&changes).to_string()).unwrap();
    let spec = format!("0={}", file.display());
    d.ctl(&[
        "backup",
        "push",
        "--vm",
        "cli",
        "--disk",
        &at,
        "--type",
        "incremental",
        "--changes",
        &spec,
    ])
    .ok();
    let list = d
        .ctl(&["backup", "list", "--vm", "cli", "--json"])
        .ok()
        .json();
    assert_eq!(list["backups"][0]["backup_type"], "incremental", "{list}");
    let newest = list["backups"][0]["backup_id"].as_str().unwrap().to_owned();
    let out = dir.path().join("out.raw");
    d.restore(&newest, 0, &out);
    oracle::same_bytes(&out, &disk.path);
    // Nothing is overwritten unasked.
    let again = d.ctl(&[
        "backup",
        "restore",
        "--backup-id",
        &newest,
        "--disk",
        "0",
        "--to",
        out.to_str().unwrap(),
    ]);
    assert_ne!(again.code, 0);

    assert_ne!(
        d.ctl(&["backup", "delete", "--backup-id", &id, "--yes"])
            .code,
        0,
        "it has a dependent"
    );
    d.ctl(&["backup", "delete", "--backup-id", &newest, "--yes"])
        .ok();
    assert_eq!(d.ctl(&["backup", "show", "--backup-id", &newest]).code, 10);
    assert_eq!(d.ctl(&["backup", "frobnicate"]).code, 64);
}

#[test]
fn a_flipped_bit_in_a_sealed_image_is_found_by_verify() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 80, 1);
    let id = backup::full(&d, "vm", &disk, "u/0");
    d.ctl(&["backup", "verify", "--backup-id", &id]).ok();
    let image = Disk::open(&d.images(&id)[0]);
    let byte = image.read(3 << 20, 1)[0];
    image.write(3 << 20, &[byte ^ 0x10]);
    let found = d.ctl(&["backup", "verify", "--backup-id", &id]);
    assert_eq!(found.code, 15, "{}{}", found.stdout, found.stderr);
}

#[test]
fn each_point_of_a_chain_may_have_its_own_cluster_size() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), (24 << 20) + 512, 40, 6);
    let cluster =
        |id: &str| d.get(&format!("/backup/{id}")).expect(200)["disks"][0]["cluster_size"].clone();
    let mut request = backup::full_request("sizes", &disk);
    for bad in [0, 512, 32768, 65537, 3 << 16, 4 << 20] {
        request["cluster_size"] = json!(bad);
        let refused = d.post("/backup/start", &request).expect(422);
        assert!(
            refused["hint"].as_str().unwrap().contains("2097152"),
            "{refused}"
        );
    }
    request["cluster_size"] = json!(2 << 20);
    let started = d.start_backup(&request);
    sendense_tests::mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    let full = backup::id(&started);
    d.complete(&full, &json!([{ "disk_id": 0 }]));
    assert_eq!(cluster(&full), 2 << 20);

    let write = |at, len| Change {
        at,
        len,
        act: Act::Write,
    };
    let changes = vec![
        write(3 << 20, 100_000),
        write((24 << 20) - 1000, 1512),
        Change {
            at: 6 << 20,
            len: 5 << 20,
            act: Act::Zero,
        },
        Change {
            at: 15 << 20,
            len: 65536,
            act: Act::Trim,
        },
    ];
    disk.apply(&changes, &mut Random::new(7));
    let file = dir.path().join("changes.json");
    std::fs::write(&file, sendense_tests::disk::to_json(&changes).to_string()).unwrap();
    let (at, list) = (
        format!("0={}", disk.path.display()),
        format!("0={}", file.display()),
    );
    let push = |size: &str| {
        d.ctl(&[
            "backup",
            "push",
            "--vm",
            "sizes",
            "--disk",
            &at,
            "--type",
            "incremental",
            "--changes",
            &list,
            "--cluster-size",
            size,
            "--json",
        ])
    };
    let mut ids = vec![full];
    for (size, bytes) in [("64K", 64 << 10), ("1M", 1 << 20)] {
        let point = push(size).ok().json();
        let id = point["backup_id"].as_str().unwrap().to_owned();
        assert_eq!(cluster(&id), bytes);
        ids.push(id);
    }
    assert_ne!(push("32K").code, 0);
    for id in &ids[1..] {
        let image = &d.images(id)[0];
        oracle::check_clean(image);
        oracle::identical(image, &disk.path);
        let out = dir.path().join(format!("{id}.raw"));
        d.restore(id, 0, &out);
        oracle::same_bytes(&out, &disk.path);
        d.ctl(&["backup", "verify", "--backup-id", id]).ok();
    }
    oracle::check_clean(&d.images(&ids[0])[0]);
    let small = d.images(&ids[1])[0].metadata().unwrap().len();
    assert!(
        small < 2 << 20,
        "64 KiB clusters hold what changed alone: {small}"
    );
}

#[test]
fn the_shapes_of_the_contract_name_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let d = Daemon::start(&dir.path().join("data"));
    let disk = Disk::scattered(&dir.path().join("d"), 8 << 20, 50, 1);
    let has = |value: &serde_json::Value, names: &str| {
        for name in names.split(' ') {
            assert!(value.get(name).is_some(), "{name} is not in {value}");
        }
    };
    let started = d.start_backup(&backup::full_request("shapes", &disk));
    let head =
        "backup_id vm_id vm_name requested_type backup_type reason status parent_backup_id disks";
    has(&started, head);
    has(&started, "vm_created");
    has(
        &started["disks"][0],
        "disk_id size_bytes export_name nbd_uris base_change_id",
    );
    mover::nbdcopy(&disk, &backup::uri(&started, 0)).ok();
    let sealed = d.complete(
        &backup::id(&started),
        &json!([{ "disk_id": 0, "change_id": "s/0" }]),
    );
    let shown = d
        .get(&format!("/backup/{}", backup::id(&started)))
        .expect(200);
    let list = d.get("/backup/list?vm_name=shapes").expect(200);
    has(&list, "backups next_cursor");
    for b in [&sealed, &shown, &list["backups"][0]] {
        has(b, head);
        has(
            b,
            "created_at started_at completed_at sealed_at verified_at total_bytes bytes_transferred stored_bytes zero_bytes covered_bytes error_code error_message",
        );
        has(&b["disks"][0], "change_id locator path");
    }
    let chain = d.get("/backup/chain?vm_name=shapes").expect(200);
    has(&chain, "vm_name disks");
    has(
        &chain["disks"][0],
        "disk_id full_backup_id latest_backup_id total_backups total_size_bytes chains",
    );
    has(
        &chain["disks"][0]["chains"][0],
        "chain_id repository current backups",
    );
    let export = d
        .post(
            "/restore/export",
            &json!({ "backup_id": backup::id(&started), "disk_id": 0 }),
        )
        .body;
    has(&export, "export_id export_name nbd_uris expires_at");
    has(&d.get("/vms").expect(200)["vms"][0], "vm_id context_id");
}
