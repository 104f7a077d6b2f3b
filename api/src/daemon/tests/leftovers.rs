//! What is left half done, by a crash, by a failure or by a caller who went away.

use sendense_engine::repository::{BackupId, VmId, deleting_path};

use super::*;
use crate::service::ListQuery;
use crate::store::Store;
use crate::types::{Code, JobStatus};

impl World {
    /// A job that ran when the daemon was killed: stopped in order, it is put back as it was.
    async fn kill(&mut self, id: &str) {
        let before = self.service().store().backup(id).await.unwrap().unwrap();
        self.stop().await;
        let store = Store::open(&self.data().join("catalog.db")).await.unwrap();
        let mut tx = store.begin_write().await.unwrap();
        tx.upsert_backup(&before).await.unwrap();
        tx.commit().await.unwrap();
        store.close().await;
    }

    fn partials(&self) -> Vec<PathBuf> {
        let all = self.files().into_iter().map(PathBuf::from);
        all.filter(|f| f.extension().is_some_and(|e| e == "partial"))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_point_may_exist_is_not_called_failed() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let job = start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let job = w.begin(job).await.unwrap();
    w.kill(&job.backup_id).await;
    // Nobody can look at the machine's points at this start.
    let points = w.data().join("backups").join(&full.vm_id).join("points");
    let aside = w.dir.path().join("aside");
    std::fs::rename(&points, &aside).unwrap();
    std::fs::write(&points, "no directory").unwrap();
    w.start().await;
    let found = w.show(&job.backup_id).await;
    assert_eq!(found.status, JobStatus::Running);
    assert_eq!(found.error_code.as_deref(), Some("in_doubt"));
    let other = w
        .service()
        .delete_backup(&w.caller, &job.backup_id, false, false);
    assert_eq!(other.await.unwrap_err().code, Code::WrongState);
    assert!(!w.show(&full.backup_id).await.missing);
    w.stop().await;
    std::fs::remove_file(&points).unwrap();
    std::fs::rename(&aside, &points).unwrap();
    w.start().await;
    let found = w.show(&job.backup_id).await;
    assert_eq!(found.status, JobStatus::Failed);
    assert_eq!(found.error_code.as_deref(), Some("interrupted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_fails_half_way_leaves_no_row_without_its_point() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let one = w.incremental("web1", &full, 0, &[1; 512]).await;
    let two = w.incremental("web1", &one, 0, &[2; 512]).await;
    // The mark of the second deletion has no place to go.
    let vm = VmId::parse(&full.vm_id).unwrap();
    let id = BackupId::parse(one.backup_id.as_str()).unwrap();
    let mark = w.data().join("backups").join(deleting_path(vm, &id));
    std::fs::create_dir(mark).unwrap();
    let e = w
        .service()
        .delete_backup(&w.caller, &full.backup_id, true, false);
    let e = e.await.unwrap_err();
    assert_ne!(e.code, Code::NotFound, "{e}");
    let query = ListQuery {
        limit: 10,
        ..ListQuery::default()
    };
    let list = w.service().list_backups(&w.caller, &query).await.unwrap();
    let ids: Vec<_> = list.backups.iter().map(|b| &b.backup_id).collect();
    assert_eq!(
        ids,
        [&one.backup_id, &full.backup_id],
        "{} is gone",
        two.backup_id
    );
    let vm = PointQuery {
        vm_name: Some("web1".into()),
        vm_id: None,
    };
    let chains = w.service().show_chains(&vm).await.unwrap();
    assert_eq!(
        chains.disks[0].latest_backup_id.as_ref(),
        Some(&one.backup_id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_jobs_row_takes_its_unfinished_files_along() {
    let w = World::new().await;
    let job = start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let job = w.begin(job).await.unwrap();
    let partials = w.partials();
    assert!(!partials.is_empty());
    let cancel = w.service().cancel_backup(&w.caller, &job.backup_id);
    cancel.await.unwrap();
    assert!(w.partials().is_empty());
    // As if it could not have been removed then.
    for file in &partials {
        std::fs::write(file, "unfinished").unwrap();
    }
    let other = start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let other = w.begin(other).await.unwrap();
    let delete = w
        .service()
        .delete_backup(&w.caller, &job.backup_id, false, false);
    delete.await.unwrap();
    let left = w.partials();
    assert!(partials.iter().all(|p| !left.contains(p)), "{left:?}");
    // The running job's own stay.
    w.write(&other, 0, 0, &pattern(1, 1 << 20)).await;
    w.complete(&other.backup_id, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_on_without_whoever_asked_for_it() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let turn = w.service().store().begin_write().await.unwrap();
    let asked = w.service().verify_backup(&w.caller, &full.backup_id);
    let left = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(left.is_err());
    drop(turn);
    for _ in 0..100 {
        if w.show(&full.backup_id).await.verified_at.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let jobs = w.service().list_jobs(&w.caller, None, 10).await.unwrap();
    let job = &jobs.jobs[0];
    assert!(job.job_id.starts_with("verify-"), "{}", job.job_id);
    let done = w.wait_for(job.clone()).await;
    assert_eq!(done.status, JobStatus::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_failed_binds_no_disk_for_good() {
    let w = World::new().await;
    let with_key = |number, key: &str| {
        let mut d = disk(number, 65536);
        d.device_key = Some(key.to_owned());
        start("web1", BackupType::Full, vec![d])
    };
    let typo = w.begin(with_key(0, "20O0")).await.unwrap();
    let cancel = w.service().cancel_backup(&w.caller, &typo.backup_id);
    cancel.await.unwrap();
    let right = w.begin(with_key(0, "2000")).await.unwrap();
    w.write(&right, 0, 0, &[1; 65536]).await;
    let right = w.complete(&right.backup_id, &[]).await.unwrap();
    assert_eq!(right.disks[0].device_key, "2000");
    // What a point has sealed stays bound, whatever becomes of later jobs.
    let later = w.begin(with_key(0, "2000")).await.unwrap();
    let cancel = w.service().cancel_backup(&w.caller, &later.backup_id);
    cancel.await.unwrap();
    let e = w.begin(with_key(0, "20O0")).await.unwrap_err();
    assert_eq!(e.code, Code::DiskIdentity);

    // So does what was registered by hand.
    let new = crate::types::NewVm {
        name: "db1".into(),
        uuid: None,
        disks: vec![crate::types::NewVmDisk {
            disk_id: 0,
            size_bytes: 65536,
            device_key: Some("7".into()),
            source: None,
        }],
    };
    w.service().add_vm(&w.caller, new).await.unwrap();
    let b = start("db1", BackupType::Full, vec![disk(0, 65536)]);
    let b = w.begin(b).await.unwrap();
    let cancel = w.service().cancel_backup(&w.caller, &b.backup_id);
    cancel.await.unwrap();
    let vm = w.service().show_vm("db1").await.unwrap();
    assert_eq!(vm.disks[0].device_key, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubted_job_can_be_cancelled_where_nobody_will_ever_find_out() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let job = start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let job = w.begin(job).await.unwrap();
    w.kill(&job.backup_id).await;
    let points = w.data().join("backups").join(&full.vm_id).join("points");
    let aside = w.dir.path().join("aside");
    std::fs::rename(&points, &aside).unwrap();
    std::fs::write(&points, "no directory").unwrap();
    w.start().await;
    for _ in 0..2 {
        let ended = w.service().cancel_backup(&w.caller, &job.backup_id).await;
        assert_eq!(ended.unwrap().status, JobStatus::Cancelled);
    }
    w.stop().await;
    std::fs::remove_file(&points).unwrap();
    std::fs::rename(&aside, &points).unwrap();
    w.start().await;
    assert_eq!(w.show(&job.backup_id).await.status, JobStatus::Cancelled);
    assert_eq!(w.partials(), [] as [PathBuf; 0]);
}
