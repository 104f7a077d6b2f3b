//! Repositories.

use super::{Result, Store, WriteTx, db};

/// A row of `backup_repositories`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RepositoryRow {
    /// The id that the repository itself carries.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `local`.
    pub repository_type: String,
    /// What its type needs, as JSON.
    pub config: String,
    /// Whether backups may go there, 0 or 1.
    pub enabled: i64,
    /// Capacity at the last look.
    #[sqlx(try_from = "i64")]
    pub total_size_bytes: u64,
    /// Free bytes at the last look.
    #[sqlx(try_from = "i64")]
    pub available_size_bytes: u64,
    /// When it was added.
    pub created_at: i64,
    /// The last look.
    pub updated_at: i64,
}

impl Store {
    /// All repositories, by name.
    pub async fn repositories(&self) -> Result<Vec<RepositoryRow>> {
        Ok(sqlx::query_as(
            "SELECT id, name, repository_type, config, enabled, total_size_bytes,
                    available_size_bytes, created_at, updated_at
             FROM backup_repositories WHERE tenant = $1 ORDER BY name",
        )
        .bind(&*self.tenant)
        .fetch_all(&self.pool)
        .await?)
    }

    /// How many sealed points a repository holds.
    pub async fn sealed_count(&self, repository_id: &str) -> Result<u64> {
        let n: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM backup_jobs
             WHERE tenant = $1 AND repository_id = $2 AND status = 'completed'",
        )
        .bind(&*self.tenant)
        .bind(repository_id)
        .fetch_one(&self.pool)
        .await?;
        Ok(super::un(n))
    }
}

impl WriteTx {
    /// Adds a repository, or renews what is known of it.
    pub async fn upsert_repository(&mut self, row: &RepositoryRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO backup_repositories (tenant, id, name, repository_type, config, enabled,
                 total_size_bytes, available_size_bytes, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (tenant, id) DO UPDATE SET
                 name = excluded.name, config = excluded.config, enabled = excluded.enabled,
                 total_size_bytes = excluded.total_size_bytes,
                 available_size_bytes = excluded.available_size_bytes,
                 updated_at = excluded.updated_at",
        )
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.name)
        .bind(&row.repository_type)
        .bind(&row.config)
        .bind(row.enabled)
        .bind(db(row.total_size_bytes))
        .bind(db(row.available_size_bytes))
        .bind(row.created_at)
        .bind(row.updated_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
