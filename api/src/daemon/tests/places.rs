//! Pulled sources and daemon-side targets.

use super::*;
use crate::types::{Change, Code, ImageFormat, JobStatus, RestoreDisk};

fn pulled(source: String) -> StartDisk {
    StartDisk {
        disk_id: 0,
        source: Some(source),
        ..StartDisk::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_pulled_whole_by_list_and_by_comparing() {
    let w = World::new().await;
    let path = w.disks().join("disk.raw");
    let source = format!("file:{}", path.display());
    let mut bytes = pattern(1, (1 << 20) + 512);
    std::fs::write(&path, &bytes).unwrap();
    let run = async |kind, spec: StartDisk| {
        let b = w.begin(start("web1", kind, vec![spec])).await.unwrap();
        for _ in 0..200 {
            let b = w.show(&b.backup_id).await;
            if b.status.is_final() {
                assert_eq!(b.status, JobStatus::Completed, "{:?}", b.error_message);
                return b;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the pull does not end");
    };
    let mut first = pulled(source.clone());
    first.change_id = Some("one".into());
    let full = run(BackupType::Full, first).await;
    assert_eq!(full.disks[0].change_id.as_deref(), Some("one"));
    assert_eq!(w.read(&full.backup_id, 0).await, bytes);

    // By comparing with the parent: the daemon knows what it is relative to.
    bytes[100_000..100_512].fill(7);
    std::fs::write(&path, &bytes).unwrap();
    let compared = run(BackupType::Incremental, pulled(source.clone())).await;
    assert_eq!(compared.disks[0].base_change_id.as_deref(), Some("one"));
    assert!(
        compared.covered_bytes <= 131_072,
        "{}",
        compared.covered_bytes
    );
    assert_eq!(w.read(&compared.backup_id, 0).await, bytes);

    // By a list, which needs a base.
    bytes[200_000..200_512].fill(8);
    std::fs::write(&path, &bytes).unwrap();
    let mut listed = pulled(source);
    listed.changes = Some(vec![Change {
        offset: 200_000,
        length: 512,
    }]);
    let e = w
        .begin(start("web1", BackupType::Incremental, vec![listed.clone()]))
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::BaseTokenMismatch);
    listed.base_change_id = compared.disks[0].change_id.clone();
    let last = run(BackupType::Incremental, listed).await;
    assert_eq!(last.covered_bytes, 512);
    assert_eq!(w.read(&last.backup_id, 0).await, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_of_the_lists_is_touched() {
    let w = World::new().await;
    let outside = w.dir.path().join("outside.raw");
    std::fs::write(&outside, [1; 4096]).unwrap();
    std::os::unix::fs::symlink(&outside, w.disks().join("link")).unwrap();
    for (source, code) in [
        (format!("file:{}", outside.display()), Code::NotAllowed),
        (
            format!("file:{}/../outside.raw", w.disks().display()),
            Code::NotAllowed,
        ),
        ("file:/etc/hostname".to_owned(), Code::NotAllowed),
        ("nbd://127.0.0.1:1/x".to_owned(), Code::NotAllowed),
        (format!("file:{}/none", w.disks().display()), Code::NotFound),
        ("agent".to_owned(), Code::Unsupported),
    ] {
        let e = w
            .begin(start(
                "web1",
                BackupType::Full,
                vec![pulled(source.clone())],
            ))
            .await
            .unwrap_err();
        assert_eq!(e.code, code, "{source}: {e}");
    }
    let link = pulled(format!("file:{}/link", w.disks().display()));
    assert!(
        w.begin(start("web1", BackupType::Full, vec![link]))
            .await
            .is_err()
    );
    assert!(w.service().list_vms(None, 10).await.unwrap().vms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_restored_beneath_the_list_and_never_over_something_unasked() {
    let w = World::new().await;
    let bytes = pattern(1, (1 << 20) + 513);
    let full = w.full("web1", &bytes).await;
    let path = w.disks().join("restored.raw");
    let request = |target: String, format, overwrite| RestoreDisk {
        backup_id: full.backup_id.clone(),
        disk_id: 0,
        target,
        format,
        overwrite,
    };
    let file = |p: &Path| format!("file:{}", p.display());
    let go = async |r| w.service().restore_disk(&w.caller, r).await;
    let job = go(request(file(&path), ImageFormat::Raw, false))
        .await
        .unwrap();
    let job = w.wait_for(job).await;
    assert_eq!(job.status, JobStatus::Completed, "{:?}", job.error_message);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let e = go(request(file(&path), ImageFormat::Raw, false))
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::Exists);
    std::fs::write(&path, b"old").unwrap();
    let job = go(request(file(&path), ImageFormat::Raw, true))
        .await
        .unwrap();
    w.wait_for(job).await;
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    let image = w.disks().join("restored.qcow2");
    let job = go(request(file(&image), ImageFormat::Qcow2, false))
        .await
        .unwrap();
    assert_eq!(w.wait_for(job).await.status, JobStatus::Completed);
    assert!(std::fs::read(&image).unwrap().starts_with(b"QFI\xfb"));

    let outside = file(&w.dir.path().join("x.raw"));
    let e = go(request(outside, ImageFormat::Raw, false))
        .await
        .unwrap_err();
    assert_eq!(e.code, Code::NotAllowed);
    let verified = w
        .service()
        .verify_backup(&w.caller, &full.backup_id)
        .await
        .unwrap();
    assert_eq!(w.wait_for(verified).await.status, JobStatus::Completed);
    assert!(w.show(&full.backup_id).await.verified_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_named() {
    let w = World::new().await;
    let full = w.full("web1", &pattern(1, 1 << 20)).await;
    let path = full.disks[0].path.clone().unwrap();
    let mut image = std::fs::read(&path).unwrap();
    image[100_000] ^= 1;
    std::fs::write(&path, image).unwrap();
    let job = w
        .service()
        .verify_backup(&w.caller, "latest")
        .await
        .unwrap();
    let job = w.wait_for(job).await;
    assert_eq!(job.error_code.as_deref(), Some("damaged"));
    assert!(w.show(&full.backup_id).await.verified_at.is_none());
}
