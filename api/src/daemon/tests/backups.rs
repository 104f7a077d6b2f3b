//! Start, complete, cancel, delete: what is accepted and what is refused.

use super::*;
use crate::service::ListQuery;
use crate::types::{Code, JobStatus, NewVm, NewVmDisk, Phase};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_and_an_incremental_restore_what_was_sent() {
    let w = World::new().await;
    let mut bytes = pattern(1, 3 * (1 << 20) + 513);
    let full = w.full("web1", &bytes).await;
    assert_eq!(full.status, JobStatus::Completed);
    assert_eq!(full.covered_bytes, bytes.len() as u64);
    let token = format!("sendense:{}", full.backup_id);
    assert_eq!(full.disks[0].change_id.as_deref(), Some(token.as_str()));
    assert!(full.disks[0].nbd_uris.is_empty());
    assert_eq!(w.read(&full.backup_id, 0).await, bytes);

    let change = pattern(2, 70_000);
    let incremental = w.incremental("web1", &full, 1000, &change).await;
    bytes[1000..71_000].copy_from_slice(&change);
    assert_eq!(incremental.parent_backup_id.as_ref(), Some(&full.backup_id));
    assert_eq!(
        incremental.disks[0].base_change_id.as_deref(),
        Some(token.as_str())
    );
    assert!(incremental.stored_bytes < full.stored_bytes / 4);
    assert_eq!(w.read("latest", 0).await, bytes);

    let vm = PointQuery {
        vm_name: Some("web1".into()),
        vm_id: None,
    };
    let chains = w.service().show_chains(&vm).await.unwrap();
    let d = &chains.disks[0];
    assert_eq!(d.full_backup_id.as_ref(), Some(&full.backup_id));
    assert_eq!(d.latest_backup_id.as_ref(), Some(&incremental.backup_id));
    assert_eq!((d.total_backups, d.chains.len()), (2, 1));
    assert!(d.chains[0].current);
    let ids: Vec<_> = d.chains[0].backups.iter().map(|b| &b.backup_id).collect();
    assert_eq!(ids, [&full.backup_id, &incremental.backup_id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_disks_are_one_point_or_none() {
    let w = World::new().await;
    let disks = vec![disk(0, MIB), disk(1, 2 * MIB)];
    let b = w
        .begin(start("db1", BackupType::Full, disks))
        .await
        .unwrap();
    let id = b.backup_id.clone();
    assert_eq!(b.phase, Some(Phase::Waiting));
    let first = pattern(3, 1 << 20);
    w.write(&b, 0, 0, &first).await;
    let c = w.complete(&id, &[(0, Some("t-0"))]).await.unwrap();
    assert_eq!((c.status, c.disks[0].complete), (JobStatus::Running, true));
    // Frozen: nothing more is taken, while the other disk is still to come.
    let frozen = connect(&b, 0).await;
    assert!(frozen.write(0, vec![1; 512], false).await.is_err());

    // Half of the second disk: refused with what is missing, and open again.
    w.write(&b, 1, 0, &pattern(4, 1 << 20)).await;
    let e = w.complete(&id, &[(1, None)]).await.unwrap_err();
    assert_eq!(e.code, Code::IncompleteCoverage);
    assert_eq!(e.extra["missing"][0]["offset"], MIB);
    assert_eq!(e.extra["missing"][0]["length"], MIB);
    assert_eq!(e.extra["disk_id"], 1);
    assert!(w.files().iter().all(|f| f.contains(".partial")));

    w.write(&b, 1, MIB, &pattern(5, 1 << 20)).await;
    let done = w.complete(&id, &[(1, Some("t-1"))]).await.unwrap();
    assert_eq!(done.status, JobStatus::Completed);
    assert_eq!(done.disks[0].change_id.as_deref(), Some("t-0"));

    // The same word again is fine, another token is not.
    w.complete(&id, &[(0, Some("t-0")), (1, Some("t-1"))])
        .await
        .unwrap();
    w.complete(&id, &[]).await.unwrap();
    let e = w.complete(&id, &[(1, Some("t-2"))]).await.unwrap_err();
    assert_eq!(e.code, Code::TokenConflict);
    assert_eq!(
        w.complete(&id, &[(7, None)]).await.unwrap_err().code,
        Code::DiskNotFound
    );
    assert_eq!(w.read(&id, 0).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_of_which_a_part_is_refused_changes_nothing() {
    let w = World::new().await;
    let disks = vec![disk(0, MIB), disk(1, MIB)];
    let b = w
        .begin(start("db2", BackupType::Full, disks))
        .await
        .unwrap();
    let id = b.backup_id.clone();
    let bytes = pattern(3, 1 << 20);
    w.write(&b, 0, 0, &bytes).await;
    w.write(&b, 1, 0, &bytes).await;
    w.complete(&id, &[(1, Some("one"))]).await.unwrap();
    let refused = [
        (vec![(0, Some("a")), (7, None)], Code::DiskNotFound),
        (vec![(0, Some("a")), (0, Some("b"))], Code::Invalid),
        (vec![(0, Some("a")), (0, Some("a"))], Code::Invalid),
        (vec![(0, Some("a")), (1, Some("two"))], Code::TokenConflict),
        (vec![(0, Some("a")), (1, Some(""))], Code::Invalid),
    ];
    for (word, code) in refused {
        let e = w.complete(&id, &word).await.unwrap_err();
        assert_eq!(e.code, code, "{word:?}: {e}");
        assert!(!w.show(&id).await.disks[0].complete, "{word:?}");
        // It is not frozen, and no token is its own.
        w.write(&b, 0, 0, &bytes).await;
    }
    let done = w.complete(&id, &[(0, Some("b")), (1, None)]).await.unwrap();
    assert_eq!(done.status, JobStatus::Completed);
    assert_eq!(done.disks[0].change_id.as_deref(), Some("b"));
    let twice = [(0, Some("b")), (0, Some("b"))];
    let e = w.complete(&id, &twice).await.unwrap_err();
    assert_eq!(e.code, Code::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_finds_the_job_just_sealed_is_no_conflict() {
    let w = World::new().await;
    let b = w
        .begin(start("db3", BackupType::Full, vec![disk(0, MIB)]))
        .await
        .unwrap();
    w.write(&b, 0, 0, &pattern(3, 1 << 20)).await;
    // Found while it ran, asked after its end.
    let running = w.service().running_job(&b.backup_id).unwrap();
    w.complete(&b.backup_id, &[(0, Some("a"))]).await.unwrap();
    for named in [Vec::new(), vec![0]] {
        let disks = named.into_iter().map(|disk_id| CompleteDisk {
            disk_id,
            change_id: None,
        });
        let body = Complete {
            disks: disks.collect(),
        };
        let late = w.service().complete_pushed(&running, &body).unwrap();
        assert_eq!(late, None, "what was sealed answers");
    }
    w.complete(&b.backup_id, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_refuses_with_both_tokens_or_makes_a_full() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let spec = |base: Option<&str>| {
        vec![StartDisk {
            disk_id: 0,
            base_change_id: base.map(str::to_owned),
            ..StartDisk::default()
        }]
    };
    for base in [None, Some("another")] {
        let e = w
            .begin(start("web1", BackupType::Incremental, spec(base)))
            .await
            .unwrap_err();
        assert_eq!(e.code, Code::BaseTokenMismatch);
        assert_eq!(e.extra["parent_backup_id"], full.backup_id.as_str());
        assert_eq!(e.extra["base_change_id"].as_str(), base);
        assert!(
            e.detail.contains(full.disks[0].change_id.as_ref().unwrap()),
            "{e}"
        );
    }
    let mut allowed = start("web1", BackupType::Incremental, spec(Some("another")));
    allowed.allow_full = true;
    let b = w.begin(allowed).await.unwrap();
    assert_eq!(b.requested_type, BackupType::Incremental);
    assert_eq!(b.backup_type, BackupType::Full);
    assert!(b.reason.contains("another"), "{}", b.reason);
    // An increment's list would not make a full whole: all of it is demanded.
    w.write(&b, 0, 0, &[1; 512]).await;
    let e = w.complete(&b.backup_id, &[]).await.unwrap_err();
    assert_eq!(e.code, Code::IncompleteCoverage);

    let e = w
        .begin(start("nobody", BackupType::Incremental, spec(None)))
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::VmNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writer_per_disk_and_a_cancel_gives_everything_back() {
    let w = World::new().await;
    let bytes = pattern(1, 1 << 20);
    let full = w.full("web1", &bytes).await;
    let before = w.files();
    let again = || start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let b = w.begin(again()).await.unwrap();
    assert_ne!(b.backup_id, full.backup_id);
    assert_eq!(w.begin(again()).await.unwrap_err().code, Code::Locked);
    let client = connect(&b, 0).await;
    client.write(0, vec![7; 4096], false).await.unwrap();
    assert!(w.files().len() > before.len());

    let c = w
        .service()
        .cancel_backup(&w.caller, &b.backup_id)
        .await
        .unwrap();
    assert_eq!(c.status, JobStatus::Cancelled);
    assert!(client.write(0, vec![7; 4096], false).await.is_err());
    assert_eq!(w.files(), before);
    let twice = w
        .service()
        .cancel_backup(&w.caller, &b.backup_id)
        .await
        .unwrap();
    assert_eq!(twice.status, JobStatus::Cancelled);
    let e = w.complete(&b.backup_id, &[]).await.unwrap_err();
    assert_eq!(e.code, Code::WrongState);
    let e = w
        .service()
        .cancel_backup(&w.caller, &full.backup_id)
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::WrongState);

    // The head stayed, and the disk is free.
    let i = w.incremental("web1", &full, 0, &[9; 512]).await;
    assert_eq!(i.parent_backup_id, Some(full.backup_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_list_must_come_whole_and_may_come_by_itself() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let spec = StartDisk {
        disk_id: 0,
        base_change_id: full.disks[0].change_id.clone(),
        ..StartDisk::default()
    };
    let b = w
        .begin(start("web1", BackupType::Incremental, vec![spec]))
        .await
        .unwrap();
    let list = br#"[{"offset": 0, "length": 512}, {"offset": 65536, "length": 4096}]"#;
    let put = |json: &'static [u8]| w.service().put_changes(&w.caller, &b.backup_id, 0, json);
    assert_eq!(
        put(br#"[{"offset": 1048576, "length": 1}]"#)
            .await
            .unwrap_err()
            .code,
        Code::Invalid
    );
    put(list).await.unwrap();
    w.write(&b, 0, 0, &[1; 512]).await;
    assert_eq!(put(list).await.unwrap_err().code, Code::WrongState);
    let e = w.complete(&b.backup_id, &[]).await.unwrap_err();
    assert_eq!(e.extra["missing"][0]["offset"], 65536);
    w.write(&b, 0, 65536, &[2; 4096]).await;
    let done = w.complete(&b.backup_id, &[]).await.unwrap();
    assert_eq!(done.covered_bytes, 512 + 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_never_enough() {
    let w = World::new().await;
    let vm = |name: &str, key: &str| NewVm {
        name: name.into(),
        uuid: None,
        disks: vec![NewVmDisk {
            disk_id: 0,
            size_bytes: MIB,
            device_key: Some(key.into()),
            source: None,
        }],
    };
    let a = w
        .service()
        .add_vm(&w.caller, vm("twin", "2000"))
        .await
        .unwrap();
    let b = w
        .service()
        .add_vm(&w.caller, vm("twin", "2000"))
        .await
        .unwrap();
    let by_name = start("twin", BackupType::Full, vec![disk(0, MIB)]);
    assert_eq!(w.begin(by_name).await.unwrap_err().code, Code::Ambiguous);
    let by_id = |id: &str, d: StartDisk| StartBackup {
        vm_name: None,
        vm_id: Some(id.to_owned()),
        ..start("", BackupType::Full, vec![d])
    };
    let one = w.begin(by_id(&a.vm_id, disk(0, MIB))).await.unwrap();
    let two = w.begin(by_id(&b.vm_id, disk(0, MIB))).await.unwrap();
    assert_ne!(one.disks[0].export_name, two.disks[0].export_name);

    let mut other_device = disk(0, MIB);
    other_device.device_key = Some("2001".into());
    let e = w.begin(by_id(&a.vm_id, other_device)).await.unwrap_err();
    assert_eq!(e.code, Code::DiskIdentity);
    let mut moved = disk(1, MIB);
    moved.device_key = Some("2000".into());
    let e = w.begin(by_id(&a.vm_id, moved)).await.unwrap_err();
    assert_eq!(e.code, Code::DiskIdentity);
    assert!(e.detail.contains("disk 0"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_names_dependents_and_moves_the_head_back() {
    let w = World::new().await;
    let bytes = pattern(1, 1 << 20);
    let full = w.full("web1", &bytes).await;
    let one = w.incremental("web1", &full, 0, &[1; 512]).await;
    let two = w.incremental("web1", &one, 0, &[2; 512]).await;
    let delete = |id: &str, with, dry| {
        let (service, caller, id) = (w.service().clone(), w.caller.clone(), id.to_owned());
        async move { service.delete_backup(&caller, &id, with, dry).await }
    };
    let e = delete(&one.backup_id, false, false).await.unwrap_err();
    assert_eq!(e.code, Code::HasDependents);
    assert_eq!(e.extra["dependents"][0], two.backup_id.as_str());
    let dry = delete(&one.backup_id, true, true).await.unwrap();
    let ids: Vec<_> = dry.deleted.iter().map(|d| d.backup_id.as_str()).collect();
    assert_eq!(ids, [&two.backup_id, &one.backup_id]);
    assert_eq!(w.show(&two.backup_id).await.status, JobStatus::Completed);

    let done = delete(&two.backup_id, false, false).await.unwrap();
    assert!(done.freed_bytes > 0);
    assert!(
        done.warnings[0].contains(&one.backup_id),
        "{:?}",
        done.warnings
    );
    let three = w.incremental("web1", &one, 512, &[3; 512]).await;
    assert_eq!(three.parent_backup_id.as_ref(), Some(&one.backup_id));
    delete(&full.backup_id, true, false).await.unwrap();
    assert!(w.files().is_empty(), "{:?}", w.files());
    let e = w
        .service()
        .show_backup(&w.caller, "latest", &PointQuery::default())
        .await;
    assert_eq!(e.unwrap_err().code, Code::BackupNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_in_use_is_not_deleted() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let request = RestoreExportRequest {
        backup_id: full.backup_id.clone(),
        disk_id: 0,
        ttl_seconds: None,
    };
    let export = w
        .service()
        .restore_export(&w.caller, request)
        .await
        .unwrap();
    let uri = export.nbd_uris[0].parse().unwrap();
    let client = Client::connect(&uri, &ConnectOptions::default())
        .await
        .unwrap();
    let delete = || {
        w.service()
            .delete_backup(&w.caller, &full.backup_id, false, false)
    };
    assert_eq!(delete().await.unwrap_err().code, Code::Busy);
    client.disconnect().await;
    // The server notices in its own time.
    for _ in 0..100 {
        if w.service().restore_exports().exports[0].connections == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Idle, it still holds its point: whoever made it means to read.
    assert_eq!(delete().await.unwrap_err().code, Code::Busy);
    w.service().end_restore_export(&export.export_id).unwrap();
    delete().await.unwrap();
    assert!(w.service().restore_exports().exports.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_can_be_cancelled_as_soon_as_it_can_be_seen() {
    let w = World::new().await;
    let running = ListQuery {
        status: Some("running".to_owned()),
        limit: 10,
        ..ListQuery::default()
    };
    for n in 0..8 {
        let (service, caller) = (w.service().clone(), w.caller.clone());
        let starting = tokio::spawn(async move {
            let disks = vec![disk(0, MIB), disk(1, MIB)];
            let start = start(&format!("vm{n}"), BackupType::Full, disks);
            service.start_backup(&caller, start).await
        });
        let id = loop {
            let list = w.service().list_backups(&w.caller, &running).await.unwrap();
            if let Some(b) = list.backups.first() {
                break b.backup_id.clone();
            }
        };
        let ended = w.service().cancel_backup(&w.caller, &id).await.unwrap();
        assert_eq!(ended.status, JobStatus::Cancelled);
        if let Err(e) = starting.await.unwrap() {
            assert_eq!(e.code, Code::Cancelled);
        }
        assert_eq!(w.show(&id).await.error_code.as_deref(), Some("cancelled"));
        assert!(w.files().is_empty(), "{:?}", w.files());
    }
    assert!(w.service().plane().registry().list().is_empty());
}
