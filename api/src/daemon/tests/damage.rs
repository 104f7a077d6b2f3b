//! What is known to be damaged is told, and what builds on it is refused or made a full.

use serde_json::Value;

use super::*;
use crate::service::ListQuery;
use crate::types::{Code, JobStatus};

impl World {
    fn image(&self, b: &Backup) -> PathBuf {
        let locator = b.disks[0].locator.as_ref().unwrap();
        self.data().join("backups").join(locator)
    }

    async fn verify(&self, id: &str) -> Job {
        let job = self.service().verify_backup(&self.caller, id).await;
        self.wait_for(job.unwrap()).await
    }

    /// What show says of the damage, and the list the same.
    async fn damage(&self, id: &str) -> Option<String> {
        let text = |b: &Backup| {
            let b = serde_json::to_value(b).unwrap();
            b["damage"].as_str().map(str::to_owned)
        };
        let shown = text(&self.show(id).await);
        let query = ListQuery {
            limit: 100,
            ..ListQuery::default()
        };
        let list = self.service().list_backups(&self.caller, &query).await;
        let list = list.unwrap();
        let listed = list.backups.iter().find(|b| b.backup_id == id).unwrap();
        assert_eq!(text(listed), shown);
        shown
    }

    async fn health(&self) -> Value {
        serde_json::to_value(self.service().health().await).unwrap()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn increment(parent: &Backup, allow_full: bool) -> StartBackup {
    let spec = StartDisk {
        disk_id: 0,
        base_change_id: parent.disks[0].change_id.clone(),
        ..StartDisk::default()
    };
    StartBackup {
        allow_full,
        ..start("web1", BackupType::Incremental, vec![spec])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_verify_finds_stays_known_until_it_is_gone() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let id = full.backup_id.clone();
    assert_eq!(w.verify(&id).await.status, JobStatus::Completed);
    assert!(w.show(&id).await.verified_at.is_some());
    assert_eq!(w.damage(&id).await, None);
    assert_eq!(w.health().await["status"], "ok");

    flip(&w.image(&full), 200_000);
    let job = w.verify(&id).await;
    assert_eq!(job.error_code.as_deref(), Some("damaged"));
    for _ in 0..2 {
        assert_eq!(w.show(&id).await.verified_at, None);
        let why = w.damage(&id).await.unwrap();
        assert!(why.contains(".qcow2"), "{why}");
        let health = w.health().await;
        assert_eq!(health["status"], "degraded");
        let problem = health["problems"][0].as_str().unwrap();
        assert!(problem.contains("1 restore point is damaged"), "{problem}");
        w.stop().await;
        // It is known without a catalog, too.
        w.lose_catalog();
        w.start().await;
    }
    flip(&w.image(&full), 200_000);
    assert_eq!(w.verify(&id).await.status, JobStatus::Completed);
    assert!(w.show(&id).await.verified_at.is_some());
    assert_eq!(w.damage(&id).await, None);
    assert_eq!(w.health().await["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_start_finds_damaged_is_shown_and_forgotten_once_it_is_whole() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let two = w.full("web2", &pattern(2, 1 << 20)).await;
    let (image, aside) = (w.image(&full), w.dir.path().join("aside"));
    let points = w.data().join("backups").join(&two.vm_id).join("points");
    let manifest = points.join(format!("{}.json", two.backup_id));
    w.stop().await;
    std::fs::rename(&image, &aside).unwrap();
    flip(&manifest, 20);
    w.start().await;
    let why = w.damage(&full.backup_id).await.unwrap();
    assert!(why.contains("missing") && why.contains(".qcow2"), "{why}");
    let why = w.damage(&two.backup_id).await.unwrap();
    assert!(why.contains("checksum"), "{why}");
    let health = w.health().await;
    let problem = health["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("2 restore points are damaged"),
        "{problem}"
    );
    w.stop().await;
    std::fs::rename(&aside, &image).unwrap();
    flip(&manifest, 20);
    w.start().await;
    assert_eq!(w.damage(&full.backup_id).await, None);
    assert_eq!(w.damage(&two.backup_id).await, None);
    assert_eq!(w.health().await["status"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_parent_is_refused_with_409_and_cured_by_allow_full() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let aside = w.dir.path().join("aside");
    // Its header is another one.
    flip(&w.image(&full), 8);
    let e = w.begin(increment(&full, false)).await.unwrap_err();
    assert_eq!(e.code.status(), 409, "{e}");
    assert!(e.detail.contains(&full.backup_id), "{e}");
    assert_eq!(e.extra["disk_id"], 0);
    // Its image is gone.
    std::fs::rename(w.image(&full), &aside).unwrap();
    let e = w.begin(increment(&full, false)).await.unwrap_err();
    assert_eq!(e.code, Code::NoParent, "{e}");
    assert!(e.detail.contains("missing"), "{e}");
    let jobs = w.service().list_jobs(&w.caller, None, 10).await.unwrap();
    assert_eq!(jobs.jobs.len(), 1, "a refused start leaves no job");

    let b = w.begin(increment(&full, true)).await.unwrap();
    assert_eq!(b.backup_type, BackupType::Full);
    assert!(b.reason.contains(&full.backup_id), "{}", b.reason);
    let bytes = pattern(2, 1 << 20);
    w.write(&b, 0, 0, &bytes).await;
    let b = w.complete(&b.backup_id, &[]).await.unwrap();
    assert_eq!(w.read(&b.backup_id, 0).await, bytes);
    // From here on increments go again.
    w.incremental("web1", &b, 0, &[3; 512]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_head_is_refused_with_409_and_cured_by_allow_full() {
    let mut w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let points = w.data().join("backups").join(&full.vm_id).join("points");
    w.stop().await;
    flip(&points.join(format!("{}.json", full.backup_id)), 20);
    w.start().await;
    let e = w.begin(increment(&full, false)).await.unwrap_err();
    assert_eq!(e.code.status(), 409, "{e}");
    let b = w.begin(increment(&full, true)).await.unwrap();
    assert_eq!(b.backup_type, BackupType::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_its_disk_among_several() {
    let w = World::new().await;
    let both = vec![disk(0, 65536), disk(1, 65536)];
    let b = w
        .begin(start("web1", BackupType::Full, both))
        .await
        .unwrap();
    w.write(&b, 0, 0, &[1; 65536]).await;
    w.write(&b, 1, 0, &[1; 65536]).await;
    let b = w.complete(&b.backup_id, &[]).await.unwrap();
    let spec = |disk_id, base: &str| StartDisk {
        disk_id,
        base_change_id: Some(base.to_owned()),
        ..StartDisk::default()
    };
    let right = b.disks[0].change_id.clone().unwrap();
    let disks = vec![spec(0, &right), spec(1, "another")];
    let e = w.begin(start("web1", BackupType::Incremental, disks)).await;
    let e = e.unwrap_err();
    assert_eq!(e.code, Code::BaseTokenMismatch);
    assert_eq!(e.extra["disk_id"], 1);
}
