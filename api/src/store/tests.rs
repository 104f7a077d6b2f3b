use super::*;

pub(crate) async fn temporary() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("catalog.db")).await.unwrap();
    (dir, store)
}

fn vm(id: &str, at: i64) -> VmRow {
    VmRow {
        id: id.into(),
        context_id: format!("ctx-{id}"),
        name: "web1".into(),
        created_at: at,
    }
}

fn repository() -> RepositoryRow {
    RepositoryRow {
        id: "r1".into(),
        name: "local".into(),
        repository_type: "local".into(),
        config: "{}".into(),
        enabled: 1,
        total_size_bytes: 10,
        available_size_bytes: 5,
        created_at: 1,
        updated_at: 1,
    }
}

fn backup(id: &str, parent: Option<&str>, at: i64) -> BackupRow {
    BackupRow {
        id: id.into(),
        vm_id: "v1".into(),
        vm_name: "web1".into(),
        repository_id: "r1".into(),
        requested_type: "full".into(),
        backup_type: "full".into(),
        reason: "asked".into(),
        status: "running".into(),
        phase: Some("waiting".into()),
        parent_backup_id: parent.map(Into::into),
        error_code: None,
        error_message: None,
        missing: 0,
        damage: None,
        damage_found_at: None,
        place: at,
        created_at: at,
        started_at: Some(at),
        completed_at: None,
        sealed_at: None,
        verified_at: None,
    }
}

fn disk(backup_id: &str, parent: Option<&str>, sealed_at: Option<i64>) -> DiskRow {
    DiskRow {
        backup_id: backup_id.into(),
        disk_id: 0,
        device_key: "disk-0".into(),
        backup_type: "full".into(),
        source: "push".into(),
        parent_backup_id: parent.map(Into::into),
        sequence: sealed_at,
        cluster_size: 65536,
        size_bytes: 1 << 40,
        base_change_id: None,
        change_id: None,
        bytes_transferred: 0,
        stored_bytes: 7,
        zero_bytes: 0,
        covered_bytes: 0,
        checksum: None,
        locator: None,
        export_name: None,
        export_secret_hash: None,
        sealed_at,
        verified_at: None,
    }
}

async fn seeded() -> (tempfile::TempDir, Store) {
    let (dir, store) = temporary().await;
    let mut tx = store.begin_write().await.unwrap();
    tx.upsert_repository(&repository()).await.unwrap();
    tx.insert_vm(&vm("v1", 1)).await.unwrap();
    tx.upsert_vm_disk(&VmDiskRow {
        vm_id: "v1".into(),
        disk_id: 0,
        device_key: "disk-0".into(),
        size_bytes: 512,
        source: "push".into(),
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn pages_hold_each_row_once_and_in_order() {
    let (_dir, store) = temporary().await;
    let mut tx = store.begin_write().await.unwrap();
    for i in 0..7 {
        // Two rows in one microsecond: the id decides.
        tx.insert_vm(&vm(&format!("v{i}"), i / 2)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut seen = Vec::new();
    let mut cursor = Cursor::start();
    loop {
        let page = store.vms(&cursor, 2).await.unwrap();
        seen.extend(page.rows.into_iter().map(|r| r.id));
        let Some(next) = page.next else { break };
        cursor = Cursor::parse(&next.encode()).unwrap();
    }
    assert_eq!(seen, ["v6", "v5", "v4", "v3", "v2", "v1", "v0"]);
    assert!(Cursor::parse("nonsense!").is_err());
}

#[tokio::test]
async fn a_parent_is_never_deleted_beneath_its_child() {
    let (_dir, store) = seeded().await;
    let mut tx = store.begin_write().await.unwrap();
    tx.upsert_backup(&backup("b1", None, 1)).await.unwrap();
    tx.upsert_backup_disk(&disk("b1", None, Some(1)))
        .await
        .unwrap();
    tx.upsert_backup(&backup("b2", Some("b1"), 2))
        .await
        .unwrap();
    tx.upsert_backup_disk(&disk("b2", Some("b1"), Some(2)))
        .await
        .unwrap();
    tx.commit().await.unwrap();

    let mut tx = store.begin_write().await.unwrap();
    assert!(tx.delete_backup("b1").await.unwrap_err().is_constraint());
    drop(tx);
    assert!(store.backup("b1").await.unwrap().is_some());

    let mut tx = store.begin_write().await.unwrap();
    tx.delete_backup("b2").await.unwrap();
    tx.delete_backup("b1").await.unwrap();
    tx.commit().await.unwrap();
    assert!(store.backup("b1").await.unwrap().is_none());
}

#[tokio::test]
async fn an_ended_job_frees_its_parent() {
    let (_dir, store) = seeded().await;
    let mut tx = store.begin_write().await.unwrap();
    tx.upsert_backup(&backup("b1", None, 1)).await.unwrap();
    tx.upsert_backup_disk(&disk("b1", None, Some(1)))
        .await
        .unwrap();
    tx.upsert_backup(&backup("b2", Some("b1"), 2))
        .await
        .unwrap();
    tx.upsert_backup_disk(&disk("b2", Some("b1"), None))
        .await
        .unwrap();
    tx.end_backup("b2", "failed", "storage_error", "the disk broke", 3)
        .await
        .unwrap();
    tx.delete_backup("b1").await.unwrap();
    tx.commit().await.unwrap();
    let b2 = store.backup("b2").await.unwrap().unwrap();
    assert_eq!((b2.status.as_str(), b2.completed_at), ("failed", Some(3)));
}

#[tokio::test]
async fn prefixes_and_latest() {
    let (_dir, store) = seeded().await;
    let mut tx = store.begin_write().await.unwrap();
    for (i, id) in ["backup-a-1", "backup-a-2", "backup-b-1"]
        .iter()
        .enumerate()
    {
        let mut row = backup(id, None, i64::try_from(i).unwrap());
        row.status = "completed".into();
        tx.upsert_backup(&row).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(store.backup_ids_with("backup-a").await.unwrap().len(), 2);
    assert_eq!(
        store.backup_ids_with("backup-b").await.unwrap(),
        ["backup-b-1"]
    );
    assert_eq!(store.backup_ids_with("%").await.unwrap().len(), 0);
    let latest = store.latest_backup(None).await.unwrap();
    assert_eq!(latest.as_deref(), Some("backup-b-1"));
    assert_eq!(store.latest_backup(Some("v2")).await.unwrap(), None);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let (_dir, store) = seeded().await;
    let other = store.for_tenant("other");
    assert!(other.vm("v1").await.unwrap().is_none());
    let mut tx = other.begin_write().await.unwrap();
    tx.insert_vm(&vm("v1", 9)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.vm("v1").await.unwrap().unwrap().created_at, 1);
}

#[tokio::test]
async fn writers_that_read_first_wait_for_each_other() {
    let (_dir, store) = seeded().await;
    let mut tasks = Vec::new();
    // More than there are connections, and each reads beside its transaction.
    for i in 0..40 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut tx = store.begin_write().await.unwrap();
            let id = format!("b{i}");
            assert!(store.backup(&id).await.unwrap().is_none());
            assert!(!tx.backup_exists(&id).await.unwrap());
            tx.upsert_backup(&backup(&id, None, i)).await.unwrap();
            tx.commit().await.unwrap();
        }));
    }
    for t in tasks {
        t.await.unwrap();
    }
    assert_eq!(store.unfinished_backups().await.unwrap().len(), 40);
}

#[tokio::test]
async fn one_current_chain_per_disk_and_repository() {
    let (_dir, store) = seeded().await;
    let chain = |id: &str, full: &str, current| ChainRow {
        id: id.into(),
        vm_id: "v1".into(),
        disk_id: 0,
        repository_id: "r1".into(),
        full_backup_id: full.into(),
        latest_backup_id: full.into(),
        total_backups: 1,
        total_size_bytes: 7,
        current,
        created_at: 1,
        updated_at: 1,
    };
    let mut tx = store.begin_write().await.unwrap();
    for id in ["b1", "b2"] {
        tx.upsert_backup(&backup(id, None, 1)).await.unwrap();
        tx.upsert_backup_disk(&disk(id, None, Some(1)))
            .await
            .unwrap();
    }
    tx.insert_chain(&chain("c1", "b1", 1)).await.unwrap();
    assert!(
        tx.insert_chain(&chain("c2", "b2", 1))
            .await
            .unwrap_err()
            .is_constraint()
    );
    drop(tx);
    assert!(store.chains("v1").await.unwrap().is_empty());
}
