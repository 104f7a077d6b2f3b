//! The disks of a backup: one row per disk and restore point.

use super::{Result, Store, WriteTx, db};

/// A row of `backup_disks`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DiskRow {
    /// The backup.
    pub backup_id: String,
    /// The disk's number.
    #[sqlx(try_from = "i64")]
    pub disk_id: u32,
    /// Its identity.
    pub device_key: String,
    /// What is done for this disk.
    pub backup_type: String,
    /// Where its bytes come from.
    pub source: String,
    /// What it builds on.
    pub parent_backup_id: Option<String>,
    /// Its place in the order of this disk's points; none before the seal.
    pub sequence: Option<i64>,
    /// The disk's size.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Bytes of a cluster of its image.
    #[sqlx(try_from = "i64")]
    pub cluster_size: u64,
    /// What the sent blocks are relative to.
    pub base_change_id: Option<String>,
    /// What it became.
    pub change_id: Option<String>,
    /// Bytes that came in.
    #[sqlx(try_from = "i64")]
    pub bytes_transferred: u64,
    /// Bytes of the image file.
    #[sqlx(try_from = "i64")]
    pub stored_bytes: u64,
    /// Bytes that were zero.
    #[sqlx(try_from = "i64")]
    pub zero_bytes: u64,
    /// Bytes that were sent.
    #[sqlx(try_from = "i64")]
    pub covered_bytes: u64,
    /// The CRC-32 of its checksum file, in hexadecimal.
    pub checksum: Option<String>,
    /// The image's place within the repository.
    pub locator: Option<String>,
    /// The export's name without its secret.
    pub export_name: Option<String>,
    /// The SHA-256 of the export's secret.
    pub export_secret_hash: Option<String>,
    /// When it was sealed.
    pub sealed_at: Option<i64>,
    /// When it was last found whole.
    pub verified_at: Option<i64>,
}

/// The columns of [`DiskRow`].
macro_rules! columns {
    () => {
        "backup_id, disk_id, device_key, backup_type, source, parent_backup_id, sequence, \
         size_bytes, base_change_id, change_id, bytes_transferred, stored_bytes, zero_bytes, \
         covered_bytes, checksum, locator, export_name, export_secret_hash, sealed_at, \
         verified_at, cluster_size"
    };
}

impl Store {
    /// The disks of a backup, by number.
    pub async fn backup_disks(&self, backup_id: &str) -> Result<Vec<DiskRow>> {
        Ok(sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM backup_disks WHERE tenant = $1 AND backup_id = $2 ORDER BY disk_id"
        ))
        .bind(&*self.tenant)
        .bind(backup_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The sealed disks of a machine in all repositories, each with its repository, oldest first.
    pub async fn sealed_disks(&self, vm_id: &str) -> Result<Vec<(String, DiskRow)>> {
        let rows: Vec<SealedRow> = sqlx::query_as(
            "SELECT j.repository_id AS repository_id, d.backup_id, d.disk_id, d.device_key,
                    d.backup_type, d.source, d.parent_backup_id, d.sequence, d.size_bytes,
                    d.base_change_id, d.change_id, d.bytes_transferred, d.stored_bytes,
                    d.zero_bytes, d.covered_bytes, d.checksum, d.locator, d.export_name,
                    d.export_secret_hash, d.sealed_at, d.verified_at, d.cluster_size
             FROM backup_disks d JOIN backup_jobs j ON j.tenant = d.tenant AND j.id = d.backup_id
             WHERE d.tenant = $1 AND j.vm_id = $2 AND j.status = 'completed'
             ORDER BY d.disk_id, d.sequence",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|r| (r.repository_id, r.disk))
            .collect())
    }
}

#[derive(sqlx::FromRow)]
struct SealedRow {
    repository_id: String,
    #[sqlx(flatten)]
    disk: DiskRow,
}

impl WriteTx {
    /// Whether a backup holds a disk.
    pub async fn backup_disk_exists(&mut self, backup_id: &str, disk_id: u32) -> Result<bool> {
        let n: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM backup_disks
             WHERE tenant = $1 AND backup_id = $2 AND disk_id = $3",
        )
        .bind(&*self.tenant)
        .bind(backup_id)
        .bind(i64::from(disk_id))
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(n > 0)
    }

    /// Adds a disk of a backup, or replaces everything about one that is there.
    pub async fn upsert_backup_disk(&mut self, row: &DiskRow) -> Result<()> {
        sqlx::query(concat!(
            "INSERT INTO backup_disks (tenant, ",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                       $17, $18, $19, $20, $21, $22)
             ON CONFLICT (tenant, backup_id, disk_id) DO UPDATE SET
                 backup_type = excluded.backup_type, parent_backup_id = excluded.parent_backup_id,
                 sequence = excluded.sequence, size_bytes = excluded.size_bytes,
                 base_change_id = excluded.base_change_id, change_id = excluded.change_id,
                 bytes_transferred = excluded.bytes_transferred,
                 stored_bytes = excluded.stored_bytes, zero_bytes = excluded.zero_bytes,
                 covered_bytes = excluded.covered_bytes, checksum = excluded.checksum,
                 locator = excluded.locator, export_name = excluded.export_name,
                 export_secret_hash = excluded.export_secret_hash,
                 sealed_at = excluded.sealed_at, verified_at = excluded.verified_at,
                 cluster_size = excluded.cluster_size"
        ))
        .bind(&*self.tenant)
        .bind(&row.backup_id)
        .bind(i64::from(row.disk_id))
        .bind(&row.device_key)
        .bind(&row.backup_type)
        .bind(&row.source)
        .bind(&row.parent_backup_id)
        .bind(row.sequence)
        .bind(db(row.size_bytes))
        .bind(&row.base_change_id)
        .bind(&row.change_id)
        .bind(db(row.bytes_transferred))
        .bind(db(row.stored_bytes))
        .bind(db(row.zero_bytes))
        .bind(db(row.covered_bytes))
        .bind(&row.checksum)
        .bind(&row.locator)
        .bind(&row.export_name)
        .bind(&row.export_secret_hash)
        .bind(row.sealed_at)
        .bind(row.verified_at)
        .bind(db(row.cluster_size))
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
