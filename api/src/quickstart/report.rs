//! What is printed at the end: a short table, and what to type next.

use std::path::Path;
use std::time::Duration;

use comfy_table::{Table, presets};

use crate::types::Backup;

/// One backup, and how long it took.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) backup: Backup,
    pub(super) took: Duration,
}

fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Bytes, throughput, stored size, reduction.
pub(super) fn table(rows: &[Row; 2]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "", "BACKUP", "DISK", "SENT", "ZERO", "STORED", "TIME", "SENT/S",
    ]);
    for row in rows {
        let b = &row.backup;
        let millis = u64::try_from(row.took.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let rate = b.bytes_transferred.saturating_mul(1000) / millis;
        table.add_row([
            b.backup_type.to_string(),
            b.backup_id.clone(),
            mib(b.total_bytes),
            mib(b.bytes_transferred),
            mib(b.zero_bytes),
            mib(b.stored_bytes),
            format!("{:.2} s", row.took.as_secs_f64()),
            format!("{}/s", mib(rate)),
        ]);
    }
    let [full, incremental] = rows;
    let percent = |part: u64, of: u64| {
        part.saturating_mul(1000).checked_div(of).map_or_else(
            || "-".to_owned(),
            |tenths| format!("{}.{} %", tenths / 10, tenths % 10),
        )
    };
    format!(
        "\n{}\n\nthe full stores {} of the disk, the incremental {} of the full\n\
         (start to seal, checksums and syncs included)",
        table.trim_fmt(),
        percent(full.backup.stored_bytes, full.backup.total_bytes),
        percent(incremental.backup.stored_bytes, full.backup.stored_bytes)
    )
}

/// Where everything is, and the next commands; each can be pasted.
pub(super) fn next(dir: &Path, rows: &[Row; 2]) -> String {
    // As this one was started from, since it may lie outside of the search path.
    let here = std::env::current_exe().ok();
    let here = here.as_deref().and_then(Path::parent);
    let program = |name: &str| match here.map(|dir| dir.join(name)) {
        Some(path) if path.exists() => path.display().to_string(),
        _ => name.to_owned(),
    };
    let data = dir.join("data");
    let [full, incremental] = rows;
    let image = incremental
        .backup
        .disks
        .first()
        .and_then(|d| d.path.clone());
    format!(
        "\nimages   {backups}\n\
         any QEMU opens them: qemu-img info --backing-chain {image}\n\n\
         next:\n  \
         {daemon} --data-dir {data} &\n  \
         export SENDENSE_TOKEN_FILE={token}\n  \
         {ctl} backup chain --vm quickstart\n  \
         {ctl} backup restore --backup-id {id} --disk 0 --to disk.raw\n\
         to be rid of it: rm -r {dir}",
        daemon = program("sendensed"),
        ctl = program("sendense-ctl"),
        backups = data.join("backups").display(),
        image = image.unwrap_or_default(),
        data = data.display(),
        token = data.join("admin.token").display(),
        id = full.backup.backup_id,
        dir = dir.display(),
    )
}
