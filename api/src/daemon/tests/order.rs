//! Which point is the newest, and in which order they are listed: the sequence decides, no clock.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sendense_engine::repository::PointManifest;

use super::*;
use crate::service::ListQuery;
use crate::types::{Code, JobStatus};

impl World {
    fn manifest(&self, b: &Backup) -> PathBuf {
        let points = self.data().join("backups").join(&b.vm_id).join("points");
        points.join(format!("{}.json", b.backup_id))
    }

    /// Sets the times of a sealed point of a stopped daemon ahead, as a clock that went wrong
    /// would have.
    fn set_ahead(&self, b: &Backup, by: SignedDuration) {
        let path = self.manifest(b);
        let bytes = std::fs::read(&path).unwrap();
        let mut manifest = PointManifest::decode("it", &bytes).unwrap();
        let ahead = |t: Timestamp| t.checked_add(by).unwrap();
        manifest.started_at = ahead(manifest.started_at);
        manifest.sealed_at = ahead(manifest.sealed_at);
        std::fs::write(&path, manifest.encode().unwrap()).unwrap();
    }

    pub(super) fn lose_catalog(&self) {
        for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = std::fs::remove_file(self.data().join(file));
        }
    }

    async fn latest(&self) -> String {
        self.show("latest").await.backup_id
    }

    /// All pages of the list, this many rows on each.
    async fn listed(&self, status: Option<&str>, limit: u32) -> Vec<String> {
        let mut ids = Vec::new();
        let mut cursor = None;
        loop {
            let query = ListQuery {
                status: status.map(str::to_owned),
                cursor,
                limit,
                ..ListQuery::default()
            };
            let page = self.service().list_backups(&self.caller, &query).await;
            let page = page.unwrap();
            ids.extend(page.backups.into_iter().map(|b| b.backup_id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return ids;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_point_is_the_last_sealed_whatever_the_clock_said() {
    let mut w = World::new().await;
    let bytes = pattern(1, 1 << 20);
    let a = w.full("web1", &bytes).await;
    let b = w.incremental("web1", &a, 0, &[1; 512]).await;
    w.stop().await;
    // A was made while the clock was an hour ahead; it was set right before B.
    w.set_ahead(&a, SignedDuration::from_hours(1));
    w.lose_catalog();
    w.start().await;
    let (a_id, b_id) = (a.backup_id.clone(), b.backup_id.clone());
    assert_eq!(w.latest().await, b_id);
    assert_eq!(w.listed(None, 10).await, [b_id.clone(), a_id.clone()]);
    assert_eq!(w.listed(None, 1).await, [b_id.clone(), a_id.clone()]);
    assert_eq!(w.read("latest", 0).await[..512], [1; 512]);

    // The next one's clock is right, too, and it is newer than both.
    let c = w.incremental("web1", &b, 0, &[2; 512]).await;
    let sealed = [c.backup_id.clone(), b_id, a_id];
    assert_eq!(w.latest().await, sealed[0]);
    assert_eq!(w.listed(None, 1).await, sealed);
    let running = start("web1", BackupType::Full, vec![disk(0, MIB)]);
    let running = w.begin(running).await.unwrap();
    let all = w.listed(Some("all"), 2).await;
    assert_eq!(all[0], running.backup_id);
    assert_eq!(all[1..], sealed);
    let jobs = w.service().list_jobs(&w.caller, None, 1).await.unwrap();
    assert_eq!(jobs.jobs[0].job_id, running.backup_id);
    let next = jobs.next_cursor.as_deref();
    let jobs = w.service().list_jobs(&w.caller, next, 1).await.unwrap();
    assert_eq!(jobs.jobs[0].job_id, sealed[0]);

    w.stop().await;
    w.start().await;
    assert_eq!(w.latest().await, sealed[0]);
    assert_eq!(w.listed(None, 2).await, sealed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_is_found_again_takes_its_own_place() {
    let mut w = World::new().await;
    let a = w.full("web1", &pattern(1, 1 << 20)).await;
    let b = w.full("web1", &pattern(2, 1 << 20)).await;
    let c = w.full("web1", &pattern(3, 1 << 20)).await;
    let aside = w.dir.path().join("aside");
    w.stop().await;
    std::fs::rename(w.manifest(&b), &aside).unwrap();
    w.lose_catalog();
    w.start().await;
    let ids =
        |all: &[&Backup]| -> Vec<String> { all.iter().map(|b| b.backup_id.clone()).collect() };
    assert_eq!(w.listed(None, 9).await, ids(&[&c, &a]));
    w.stop().await;
    // Its images went to quarantine, which is no matter here: its manifest is back, and late.
    std::fs::rename(&aside, w.manifest(&b)).unwrap();
    let quarantine = w.data().join("backups/.sendense/quarantine").join(&b.vm_id);
    for entry in std::fs::read_dir(quarantine.join("disk-0")).unwrap() {
        let entry = entry.unwrap();
        let home = w.data().join("backups").join(&b.vm_id).join("disk-0");
        std::fs::rename(entry.path(), home.join(entry.file_name())).unwrap();
    }
    w.set_ahead(&b, SignedDuration::from_hours(1));
    w.start().await;
    assert_eq!(w.listed(None, 9).await, ids(&[&c, &b, &a]));
    assert_eq!(w.latest().await, c.backup_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_a_point_that_has_its_files() {
    let mut w = World::new().await;
    let a = w.full("web1", &pattern(1, 1 << 20)).await;
    let b = w.full("web1", &pattern(2, 1 << 20)).await;
    w.stop().await;
    std::fs::remove_file(w.manifest(&b)).unwrap();
    w.start().await;
    assert!(w.show(&b.backup_id).await.missing);
    assert_eq!(w.latest().await, a.backup_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_of_one_machine_that_seal_together_keep_both_chains() {
    let w = World::new().await;
    let one = |number| start("web1", BackupType::Full, vec![disk(number, 65536)]);
    for round in 1..=8_u64 {
        let a = w.begin(one(0)).await.unwrap();
        let b = w.begin(one(1)).await.unwrap();
        w.write(&a, 0, 0, &[1; 65536]).await;
        w.write(&b, 1, 0, &[2; 65536]).await;
        let (a, b) = tokio::join!(w.complete(&a.backup_id, &[]), w.complete(&b.backup_id, &[]));
        let vm = PointQuery {
            vm_name: Some("web1".into()),
            vm_id: None,
        };
        let chains = w.service().show_chains(&vm).await.unwrap();
        let heads = chains.disks.iter().map(|d| d.latest_backup_id.clone());
        let ids = [Some(a.unwrap().backup_id), Some(b.unwrap().backup_id)];
        assert_eq!(heads.collect::<Vec<_>>(), ids, "round {round}");
        assert_eq!(chains.disks[0].chains.len() as u64, round);
        assert_eq!(chains.disks[1].chains.len() as u64, round);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_starts_of_one_name_make_one_machine() {
    let w = World::new().await;
    // Both have looked for the machine before either may write.
    let turn = w.service().store().begin_write().await.unwrap();
    let one = |number| {
        let (service, caller) = (w.service().clone(), w.caller.clone());
        let start = start("web1", BackupType::Full, vec![disk(number, MIB)]);
        tokio::spawn(async move { service.start_backup(&caller, start).await })
    };
    let (a, b) = (one(0), one(1));
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(turn);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    let (made, refused) = if a.is_ok() { (a, b) } else { (b, a) };
    assert!(made.unwrap().vm_created);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code.status(), 409, "{refused}");
    assert_eq!(w.service().list_vms(None, 10).await.unwrap().vms.len(), 1);
    // Again, and it finds the machine.
    let again = start("web1", BackupType::Full, vec![disk(7, MIB)]);
    let again = w.begin(again).await.unwrap();
    assert!(!again.vm_created);
    assert_eq!(again.status, JobStatus::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_registered_in_between_is_refused_by_name() {
    let w = World::new().await;
    let turn = w.service().store().begin_write().await.unwrap();
    let one = || {
        let (service, caller) = (w.service().clone(), w.caller.clone());
        let new = crate::types::NewVm {
            name: "web1".into(),
            uuid: Some("3f2b8a52-6a5b-4f0e-9c58-0d6a3c1f7e11".into()),
            disks: Vec::new(),
        };
        tokio::spawn(async move { service.add_vm(&caller, new).await })
    };
    let (a, b) = (one(), one());
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(turn);
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    let refused = if a.is_ok() { b } else { a };
    assert_eq!(refused.unwrap_err().code, Code::Exists);
}
