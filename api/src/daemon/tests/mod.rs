//! The rules, tried on a whole daemon in one process: real files, a real NBD socket, no HTTP.

mod backups;
mod damage;
mod leftovers;
mod order;
mod places;
mod restarts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sendense_nbd::client::{Client, ConnectOptions};

use super::Daemon;
use crate::auth::Caller;
use crate::config::{Config, File, Flags};
use crate::service::{Fault, PointQuery, Service};
use crate::types::{
    Backup, BackupType, Complete, CompleteDisk, Job, RestoreExportRequest, StartBackup, StartDisk,
};

const MIB: u64 = 1 << 20;

struct World {
    dir: tempfile::TempDir,
    daemon: Option<Daemon>,
    caller: Caller,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("disks")).unwrap();
        let mut world = Self {
            dir,
            daemon: None,
            caller: Caller::daemon(),
        };
        world.start().await;
        world
    }

    fn config(&self) -> Config {
        let mut file = File::default();
        let disks = self.disks().display().to_string();
        file.sources.allow = vec![disks.clone()];
        file.targets.allow = vec![disks];
        file.nbd.threads = Some(1);
        let flags = Flags {
            data_dir: Some(self.data()),
            listen: Some("127.0.0.1:0".into()),
            nbd_listen: Some("127.0.0.1:0".into()),
            insecure_listen: false,
        };
        Config::new(file, flags, PathBuf::new()).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory that sources and targets may lie in.
    fn disks(&self) -> PathBuf {
        self.dir.path().join("disks")
    }

    async fn start(&mut self) {
        self.daemon = Some(Daemon::start(self.config()).await.unwrap());
    }

    async fn stop(&mut self) {
        self.daemon.take().unwrap().shutdown().await;
    }

    fn service(&self) -> &Service {
        self.daemon.as_ref().unwrap().service()
    }

    async fn begin(&self, start: StartBackup) -> Result<Backup, Fault> {
        self.service().start_backup(&self.caller, start).await
    }

    async fn complete(&self, id: &str, disks: &[(u32, Option<&str>)]) -> Result<Backup, Fault> {
        let disks = disks.iter().map(|(disk_id, token)| CompleteDisk {
            disk_id: *disk_id,
            change_id: token.map(str::to_owned),
        });
        let body = Complete {
            disks: disks.collect(),
        };
        let wait = Duration::from_secs(20);
        let done = self
            .service()
            .complete_backup(&self.caller, id, body, wait)
            .await;
        done.map(|(backup, _)| backup)
    }

    async fn show(&self, id: &str) -> Backup {
        let vm = PointQuery::default();
        self.service()
            .show_backup(&self.caller, id, &vm)
            .await
            .unwrap()
    }

    /// Writes bytes through the export of a disk.
    async fn write(&self, backup: &Backup, disk: u32, at: u64, bytes: &[u8]) {
        let client = connect(backup, disk).await;
        client.write(at, bytes.to_vec(), false).await.unwrap();
        client.disconnect().await;
    }

    /// What a disk of a point reads as.
    async fn read(&self, id: &str, disk_id: u32) -> Vec<u8> {
        let request = RestoreExportRequest {
            backup_id: id.to_owned(),
            disk_id,
            ttl_seconds: None,
        };
        let export = self
            .service()
            .restore_export(&self.caller, request)
            .await
            .unwrap();
        let uri = export.nbd_uris[0].parse().unwrap();
        let client = Client::connect(&uri, &ConnectOptions::default())
            .await
            .unwrap();
        let size = usize::try_from(export.size_bytes).unwrap();
        let bytes = client.read(0, size).await.unwrap();
        client.disconnect().await;
        self.service()
            .end_restore_export(&export.export_id)
            .unwrap();
        bytes
    }

    /// A sealed full of one disk that holds `bytes`.
    async fn full(&self, vm: &str, bytes: &[u8]) -> Backup {
        let start = start(vm, BackupType::Full, vec![disk(0, bytes.len() as u64)]);
        let b = self.begin(start).await.unwrap();
        self.write(&b, 0, 0, bytes).await;
        self.complete(&b.backup_id, &[]).await.unwrap()
    }

    /// A sealed incremental that changes `bytes` at `at`.
    async fn incremental(&self, vm: &str, parent: &Backup, at: u64, bytes: &[u8]) -> Backup {
        let spec = StartDisk {
            disk_id: 0,
            base_change_id: parent.disks[0].change_id.clone(),
            ..StartDisk::default()
        };
        let b = self
            .begin(start(vm, BackupType::Incremental, vec![spec]))
            .await
            .unwrap();
        self.write(&b, 0, at, bytes).await;
        self.complete(&b.backup_id, &[]).await.unwrap()
    }

    async fn wait_for(&self, job: Job) -> Job {
        for _ in 0..200 {
            let job = self
                .service()
                .show_job(&self.caller, &job.job_id)
                .await
                .unwrap();
            if job.status.is_final() {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} does not end", job.job_id);
    }

    /// The files of the repository that are not its own.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.data().join("backups"), &mut found);
        found.retain(|f| !f.contains(".sendense"));
        found.sort();
        found
    }
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}

async fn connect(backup: &Backup, disk: u32) -> Client {
    let disk = backup.disks.iter().find(|d| d.disk_id == disk).unwrap();
    let uri = disk.nbd_uris[0].parse().unwrap();
    Client::connect(&uri, &ConnectOptions::default())
        .await
        .unwrap()
}

fn disk(disk_id: u32, size: u64) -> StartDisk {
    StartDisk {
        disk_id,
        size_bytes: Some(size),
        ..StartDisk::default()
    }
}

fn start(vm: &str, kind: BackupType, disks: Vec<StartDisk>) -> StartBackup {
    StartBackup {
        vm_name: Some(vm.to_owned()),
        vm_id: None,
        backup_type: kind,
        repository: None,
        allow_full: false,
        cluster_size: None,
        disks: Some(disks),
    }
}

/// Bytes that differ from place to place.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
