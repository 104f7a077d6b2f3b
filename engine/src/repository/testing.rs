//! A small world for the tests of repositories: one VM whose backups are real images.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sendense_formats::qcow2::{Backing, CreateOptions, Outcome, Writer};
use sendense_formats::{ClusterIndex, ClusterSize};

use super::guard::DiskRequest;
use super::*;
use crate::Result;
use crate::chain::{Chain, ChainOptions};
use crate::storage::{Directory, File};

pub(crate) const CLUSTER: ClusterSize = ClusterSize::DEFAULT;
pub(crate) const SIZE: u64 = 4 << 16;

/// A repository with one VM.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) repo: Repository,
    pub(crate) vm: VmId,
    pub(crate) now: Timestamp,
}

pub(crate) fn options() -> RepositoryOptions {
    RepositoryOptions {
        name: "local".into(),
        software: "sendense test".into(),
        owner: "the test".into(),
        reserve: Some(0),
        warn: None,
        now: "2025-10-04T12:00:00Z".parse().unwrap(),
    }
}

pub(crate) fn disk(number: u32) -> DiskNumber {
    DiskNumber::new(number).unwrap()
}

impl World {
    pub(crate) fn new(dir: impl Directory) -> Self {
        Self::over(Arc::new(dir), VmId::generate())
    }

    pub(crate) fn over(dir: Arc<dyn Directory>, vm: VmId) -> Self {
        Self {
            repo: Repository::open_or_create(dir, options()).unwrap(),
            vm,
            now: options().now,
        }
    }

    /// A new job's id; the clock ticks.
    pub(crate) fn job(&mut self) -> BackupId {
        self.now += SignedDuration::from_secs(1);
        BackupId::new("web", self.now, |_| false).unwrap()
    }

    pub(crate) fn head(&self, number: u32) -> Option<DiskRecord> {
        let points = self.repo.points(self.vm).unwrap();
        match points.head(disk(number)) {
            guard::Head::At(head) => Some(head.clone()),
            _ => None,
        }
    }

    /// Asks for a backup of a disk, with the token that its kind needs.
    pub(crate) fn begin(&self, job: &BackupId, number: u32, kind: BackupKind) -> Result<Growing> {
        let points = self.repo.points(self.vm)?;
        let base_token = match (points.head(disk(number)), kind) {
            (guard::Head::At(head), BackupKind::Differential) => {
                Some(points.full_of(head)?.token.clone())
            }
            (guard::Head::At(head), _) => Some(head.token.clone()),
            _ => None,
        };
        self.repo.begin_disk(BeginDisk {
            backup_id: job.clone(),
            request: DiskRequest {
                repository: self.repo.id(),
                vm: self.vm,
                disk: disk(number),
                device_key: DeviceKey::of_number(disk(number)),
                kind,
                base_token,
                allow_full: false,
                size: SIZE,
                damaged: Vec::new(),
            },
            vm_name: "web".into(),
            context_id: None,
            started_at: self.now,
        })
    }

    /// Writes an image whose cluster `at` is full of `fill`, as steps 1 to 6 would.
    pub(crate) fn prepare(&self, growing: Growing, at: u64, fill: u8) -> PreparedDisk {
        let (file_len, checksums) = write_image(&growing, at, fill);
        PreparedDisk {
            file_len,
            cluster: CLUSTER,
            counts: Counts {
                transferred: CLUSTER.bytes(),
                stored: CLUSTER.bytes(),
                zero: 0,
                covered: SIZE,
            },
            checksums: Arc::new(checksums),
            token: None,
            completed_at: self.now,
            growing,
        }
    }

    /// A whole backup of disk 0.
    pub(crate) fn backup(&mut self, kind: BackupKind, at: u64, fill: u8) -> Arc<RestorePoint> {
        let job = self.job();
        let growing = self.begin(&job, 0, kind).unwrap();
        let prepared = self.prepare(growing, at, fill);
        self.repo.commit(vec![prepared], self.now).unwrap()
    }

    /// The first byte of each cluster of a point's disk, read through its chain with checksums.
    pub(crate) fn content(&self, id: &BackupId, number: u32) -> Result<Vec<u8>> {
        content(&self.repo, self.vm, id, number)
    }

    pub(crate) fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        walk(&**self.repo.directory(), "", &mut found);
        found.retain(|path| !path.starts_with(".sendense/"));
        found
    }

    pub(crate) fn recover(&self, known: &[&BackupId]) -> RecoveryReport {
        let known = known.iter().map(|id| (*id).clone()).collect();
        self.repo.recover(&known, Duration::ZERO).unwrap()
    }
}

pub(crate) fn content(repo: &Repository, vm: VmId, id: &BackupId, number: u32) -> Result<Vec<u8>> {
    let layers = repo.layers(vm, id, disk(number))?;
    for layer in &layers {
        layer.checksums.check_whole(&layer.record.checksums)?;
    }
    let options = ChainOptions {
        checksums: Some(Arc::new(LayerChecksums::new(&layers))),
        ..ChainOptions::default()
    };
    let chain = Chain::open(&layers, options)?;
    let mut bytes = vec![0; usize::try_from(chain.size()).unwrap()];
    chain.read_blocking(0, &mut bytes)?;
    let clusters = bytes.chunks(CLUSTER.bytes_usize());
    Ok(clusters
        .map(|cluster| {
            assert!(cluster.iter().all(|b| *b == cluster[0]));
            cluster[0]
        })
        .collect())
}

fn walk(dir: &dyn Directory, at: &str, found: &mut BTreeSet<String>) {
    for entry in dir.list(at).unwrap() {
        let path = format!("{at}/{}", entry.name);
        let path = path.trim_start_matches('/').to_owned();
        match entry.kind {
            crate::storage::EntryKind::Directory => walk(dir, &path, found),
            _ => {
                found.insert(path);
            }
        }
    }
}

fn write_image(growing: &Growing, at: u64, fill: u8) -> (u64, Vec<u32>) {
    let file: &dyn File = &**growing.file();
    let backing = growing.backing().map(|name| Backing {
        name: name.to_owned(),
        format: Some("qcow2".into()),
    });
    let mut writer = Writer::create(CreateOptions {
        virtual_size: growing.virtual_size(),
        cluster: CLUSTER,
        backing,
    })
    .unwrap();
    let plan = writer.plan_write(ClusterIndex::new(at), 1).unwrap();
    for run in &plan.runs {
        let bytes = vec![fill; CLUSTER.bytes_usize()];
        file.write_at_blocking(run.host.get(), &bytes).unwrap();
    }
    writer.settle(plan, Outcome::Done).unwrap();
    let seal = writer.seal().unwrap();
    for (host, bytes) in seal.metadata() {
        file.write_at_blocking(host.get(), &bytes).unwrap();
    }
    file.sync_blocking().unwrap();
    file.write_at_blocking(0, &seal.header()).unwrap();
    file.set_len(seal.file_len()).unwrap();
    file.sync_blocking().unwrap();
    let mut image = vec![0; usize::try_from(seal.file_len()).unwrap()];
    file.read_at_blocking(0, &mut image).unwrap();
    let sums = image.chunks(CLUSTER.bytes_usize()).map(crc32fast::hash);
    (seal.file_len(), sums.collect())
}
