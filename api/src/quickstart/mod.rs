//! `sendensed quickstart [DISK]`: the whole product in a minute, in a directory of its own.
//!
//! A daemon of its own, a full backup over the real HTTP and NBD sockets, a change of about 5 %,
//! an incremental, both restored and compared byte for byte. Nothing of the given disk is written:
//! the change is made to a copy.

mod disk;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::client::Client;
use crate::config::{Config, File, Flags};
use crate::daemon::{Daemon, say};
use crate::mover::{self, Fetch, Push};
use crate::types::{
    Backup, BackupType, Change, Complete, JobStatus, RestoreExportRequest, StartBackup, StartDisk,
};
use report::Row;

/// The machine's name in its catalog.
const VM: &str = "quickstart";
/// The size of the disk that it makes.
const MADE_BYTES: u64 = 1 << 30;
const CONNECTIONS: usize = 2;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Quickstart {
    /// A raw disk image or block device; one is made where it is left out.
    pub disk: Option<PathBuf>,
    /// Where everything goes: must not exist. A fresh temporary directory where it is left out.
    pub dir: Option<PathBuf>,
}

/// Runs it and prints what happened.
pub async fn run(what: Quickstart) -> anyhow::Result<()> {
    let dir = match what.dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!(
            "sendense-quickstart-{}",
            crate::auth::random_base32(8)?
        )),
    };
    // A directory that is there could be anybody's.
    std::fs::create_dir(&dir)
        .with_context(|| format!("{} cannot be made: choose a fresh --dir", dir.display()))?;
    say(&format!("sendensed quickstart in {}", dir.display()));
    let (work, given) = (dir.join("work"), what.disk);
    std::fs::create_dir(&work)?;
    let source = {
        let work = work.clone();
        tokio::task::spawn_blocking(move || disk::prepare(given.as_deref(), &work, MADE_BYTES))
            .await??
    };
    say(&format!("disk: {}", source.description));
    if let Some(warning) = &source.warning {
        say(&format!("warning: {warning}"));
    }

    let flags = Flags {
        data_dir: Some(dir.join("data")),
        listen: Some("127.0.0.1:0".to_owned()),
        nbd_listen: Some("127.0.0.1:0".to_owned()),
        insecure_listen: false,
    };
    let config = Config::new(File::default(), flags, PathBuf::new())?;
    let token_file = config.admin_token();
    let daemon = Daemon::start(config).await?;
    let token = std::fs::read_to_string(&token_file)?;
    let client = Client::new(
        &format!("http://{}", daemon.http()),
        Some(token.trim().to_owned()),
    );
    let done = demonstrate(&client, source, &work).await;
    daemon.shutdown().await;
    let rows = done?;
    // The copies served their purpose; the repository stays.
    std::fs::remove_dir_all(&work)?;
    say(&report::table(&rows));
    say(&report::next(&dir, &rows));
    Ok(())
}

async fn demonstrate(
    client: &Client,
    source: disk::Source,
    work: &Path,
) -> anyhow::Result<[Row; 2]> {
    let full = back_up(client, &source.path, source.size, None).await?;
    say(&format!("full: {} is sealed", full.backup.backup_id));
    let changed = {
        let (path, work) = (source.path.clone(), work.to_owned());
        tokio::task::spawn_blocking(move || disk::change(&path, &work)).await??
    };
    let base = full.backup.disks.first().and_then(|d| d.change_id.clone());
    let list = (changed.ranges.clone(), base);
    let incremental = back_up(client, &changed.path, source.size, Some(list)).await?;
    say(&format!(
        "incremental: {} is sealed",
        incremental.backup.backup_id
    ));
    let mut rows = Vec::new();
    for (made, original) in [(full, source.path), (incremental, changed.path)] {
        let begun = Instant::now();
        let restored = restore(client, &made.backup.backup_id, work).await?;
        let (a, b) = (original.clone(), restored.clone());
        let differ = tokio::task::spawn_blocking(move || disk::first_difference(&a, &b)).await??;
        if let Some(at) = differ {
            bail!(
                "{} does not restore what was backed up: the first difference is at byte {at}; \
                 this is a fault of Sendense, please report it",
                made.backup.backup_id
            );
        }
        say(&format!(
            "restored {} and compared it byte for byte: identical ({:.1} s)",
            made.backup.backup_id,
            begun.elapsed().as_secs_f64()
        ));
        std::fs::remove_file(&restored)?;
        rows.push(Row {
            backup: made.backup,
            took: made.took,
        });
    }
    <[Row; 2]>::try_from(rows).map_err(|_| anyhow::anyhow!("two backups were made"))
}

/// A backup, and how long it took from its start to its seal.
struct Made {
    backup: Backup,
    took: Duration,
}

async fn back_up(
    client: &Client,
    path: &Path,
    size: u64,
    changed: Option<(Vec<Change>, Option<String>)>,
) -> anyhow::Result<Made> {
    let begun = Instant::now();
    let kind = match changed {
        None => BackupType::Full,
        Some(_) => BackupType::Incremental,
    };
    let (changes, base_change_id) = match changed {
        None => (None, None),
        Some((list, base)) => (Some(list), base),
    };
    let ranges = changes
        .as_ref()
        .map(|list| list.iter().map(|c| (c.offset, c.length)).collect());
    let start = StartBackup {
        vm_name: Some(VM.to_owned()),
        vm_id: None,
        backup_type: kind,
        repository: None,
        allow_full: false,
        cluster_size: None,
        disks: Some(vec![StartDisk {
            disk_id: 0,
            size_bytes: Some(size),
            base_change_id,
            changes,
            ..StartDisk::default()
        }]),
    };
    let started = call(client, move |c| c.start_backup(&start)).await?;
    let uris = started.disks.first().map(|d| d.nbd_uris.clone());
    mover::push(Push {
        path: path.to_owned(),
        uris: uris.unwrap_or_default(),
        ranges,
        connections: CONNECTIONS,
        progress: Arc::new(|_| {}),
    })
    .await?;
    let id = started.backup_id;
    let backup = loop {
        let id = id.clone();
        let wait = Duration::from_secs(30);
        let b = call(client, move |c| {
            c.complete_backup(&id, &Complete::default(), wait)
        })
        .await?;
        if b.status.is_final() {
            break b;
        }
    };
    if backup.status != JobStatus::Completed {
        bail!("{} is {}", backup.backup_id, backup.status);
    }
    Ok(Made {
        backup,
        took: begun.elapsed(),
    })
}

async fn restore(client: &Client, id: &str, work: &Path) -> anyhow::Result<PathBuf> {
    let request = RestoreExportRequest {
        backup_id: id.to_owned(),
        disk_id: 0,
        ttl_seconds: None,
    };
    let export = call(client, move |c| c.restore_export(&request)).await?;
    let path = work.join("restored.raw");
    mover::fetch(Fetch {
        uris: export.nbd_uris,
        path: path.clone(),
        overwrite: false,
        connections: CONNECTIONS,
        progress: Arc::new(|_| {}),
    })
    .await?;
    call(client, move |c| c.end_restore_export(&export.export_id)).await?;
    Ok(path)
}

/// The client blocks: it has a thread for that.
async fn call<T: Send + 'static>(
    client: &Client,
    work: impl FnOnce(Client) -> crate::client::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let client = client.clone();
    Ok(tokio::task::spawn_blocking(move || work(client)).await??)
}
