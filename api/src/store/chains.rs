//! Chains: per disk and repository, one row for each full.
//!
//! The rows are computed from the sealed disks and replaced whole within the transaction that
//! seals or deletes a point, so a head never disagrees with the points.

use super::{Result, Store, WriteTx, db};

/// A row of `backup_chains`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ChainRow {
    /// The chain's id.
    pub id: String,
    /// The machine.
    pub vm_id: String,
    /// The disk.
    #[sqlx(try_from = "i64")]
    pub disk_id: u32,
    /// The repository.
    pub repository_id: String,
    /// The full that it begins with.
    pub full_backup_id: String,
    /// Its newest point.
    pub latest_backup_id: String,
    /// Its points.
    #[sqlx(try_from = "i64")]
    pub total_backups: u64,
    /// Bytes of its images.
    #[sqlx(try_from = "i64")]
    pub total_size_bytes: u64,
    /// 1 where the next incremental builds on it.
    pub current: i64,
    /// When its full was sealed.
    pub created_at: i64,
    /// When it last changed.
    pub updated_at: i64,
}

impl Store {
    /// The chains of a machine, by disk, newest first.
    pub async fn chains(&self, vm_id: &str) -> Result<Vec<ChainRow>> {
        Ok(sqlx::query_as(
            "SELECT id, vm_id, disk_id, repository_id, full_backup_id, latest_backup_id,
                    total_backups, total_size_bytes, current, created_at, updated_at
             FROM backup_chains WHERE tenant = $1 AND vm_id = $2
             ORDER BY disk_id, created_at DESC, id DESC",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteTx {
    /// Forgets the chains of a machine's disks in one repository.
    pub async fn clear_chains(&mut self, vm_id: &str, repository_id: &str) -> Result<()> {
        sqlx::query(
            "DELETE FROM backup_chains
             WHERE tenant = $1 AND vm_id = $2 AND repository_id = $3",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .bind(repository_id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Adds a chain.
    pub async fn insert_chain(&mut self, row: &ChainRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO backup_chains (tenant, id, vm_id, disk_id, repository_id, full_backup_id,
                 latest_backup_id, total_backups, total_size_bytes, current, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.vm_id)
        .bind(i64::from(row.disk_id))
        .bind(&row.repository_id)
        .bind(&row.full_backup_id)
        .bind(&row.latest_backup_id)
        .bind(db(row.total_backups))
        .bind(db(row.total_size_bytes))
        .bind(row.current)
        .bind(row.created_at)
        .bind(row.updated_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
