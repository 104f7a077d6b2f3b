//! What a start finds, and what it makes of it.

use super::*;
use crate::types::{Code, JobStatus};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_running_has_failed_and_left_nothing() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let before = w.files();
    let b = w
        .begin(start("web1", BackupType::Full, vec![disk(0, MIB)]))
        .await
        .unwrap();
    w.write(&b, 0, 0, &[1; 4096]).await;
    w.stop().await;
    w.start().await;
    let found = w.show(&b.backup_id).await;
    assert_eq!(found.status, JobStatus::Failed);
    assert_eq!(found.error_code.as_deref(), Some("interrupted"));
    assert_eq!(w.files(), before);
    w.incremental("web1", &full, 0, &[2; 512]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalog_is_made_anew_from_the_manifests() {
    let mut w = World::new().await;
    let bytes = pattern(1, 1 << 20);
    let full = w.full("web1", &bytes).await;
    let one = w.incremental("web1", &full, 0, &bytes[..512]).await;
    let vm = full.vm_id.clone();
    w.stop().await;
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(w.data().join(file));
    }
    w.start().await;
    let found = w.show(&one.backup_id).await;
    assert_eq!(found.status, JobStatus::Completed);
    assert_eq!(found.vm_id, vm);
    assert_eq!(found.parent_backup_id.as_ref(), Some(&full.backup_id));
    assert_eq!(found.disks[0].change_id, one.disks[0].change_id);
    assert_eq!(found.stored_bytes, one.stored_bytes);
    let vm = PointQuery {
        vm_name: None,
        vm_id: Some(vm),
    };
    let chains = w.service().show_chains(&vm).await.unwrap();
    assert_eq!(
        chains.disks[0].latest_backup_id.as_ref(),
        Some(&one.backup_id)
    );
    assert_eq!(chains.disks[0].chains[0].backups.len(), 2);
    w.incremental("web1", &one, 0, &[2; 512]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_without_its_files_is_reported_not_hidden() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let aside = w.dir.path().join("aside");
    w.stop().await;
    let vm = w.data().join("backups").join(&full.vm_id);
    std::fs::rename(&vm, &aside).unwrap();
    w.start().await;
    assert!(w.show(&full.backup_id).await.missing);
    let request = RestoreExportRequest {
        backup_id: full.backup_id.clone(),
        disk_id: 0,
        ttl_seconds: None,
    };
    assert!(
        w.service()
            .restore_export(&w.caller, request)
            .await
            .is_err()
    );
    w.stop().await;
    std::fs::rename(&aside, &vm).unwrap();
    w.start().await;
    assert!(!w.show(&full.backup_id).await.missing);
    w.read(&full.backup_id, 0).await;

    // Once they are gone for good, the row may go, too.
    w.stop().await;
    std::fs::remove_dir_all(&vm).unwrap();
    w.start().await;
    let gone = w
        .service()
        .delete_backup(&w.caller, &full.backup_id, false, false);
    assert_eq!(gone.await.unwrap().freed_bytes, 0);
    let any = PointQuery::default();
    let show = w.service().show_backup(&w.caller, &full.backup_id, &any);
    assert_eq!(show.await.unwrap_err().code, Code::BackupNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_do_not_share_a_directory() {
    let w = World::new().await;
    let e = Daemon::start(w.config()).await.unwrap_err().to_string();
    assert!(e.contains("another sendensed"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_exports_follow_their_file() {
    let mut w = World::new().await;
    w.stop().await;
    let (file, disk) = (w.dir.path().join("exports.conf"), w.disks().join("d.raw"));
    std::fs::write(&disk, vec![5; 65536]).unwrap();
    let text = |name: &str| {
        format!(
            "[generic]\n[{name}]\nexportname = {}\nreadonly = true\n",
            disk.display()
        )
    };
    std::fs::write(&file, text("migration-one")).unwrap();
    let mut config = w.config();
    config.nbd.exports = Some(file.clone());
    let daemon = Daemon::start(config).await.unwrap();
    let names = || -> Vec<String> {
        let list = daemon.service().list_exports();
        list.exports.into_iter().map(|e| e.name).collect()
    };
    assert_eq!(names(), ["migration-one"]);
    std::fs::write(&file, text("migration-two")).unwrap();
    let r = daemon.service().reload_exports(&w.caller).await.unwrap();
    assert_eq!(
        (r.added, r.removed),
        (
            vec!["migration-two".to_owned()],
            vec!["migration-one".to_owned()]
        )
    );
    assert_eq!(names(), ["migration-two"]);
    std::fs::write(&file, "[generic]\n[x]\nexportname = /nowhere/at/all\n").unwrap();
    let e = daemon
        .service()
        .reload_exports(&w.caller)
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::Invalid);
    assert!(
        e.extra["problems"][0]
            .as_str()
            .unwrap()
            .contains("/nowhere/at/all"),
        "{e:?}"
    );
    assert_eq!(names(), ["migration-two"]);
    daemon.shutdown().await;
    w.start().await;
}
