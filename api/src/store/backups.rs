//! Backups: a job while it runs, a restore point once it is sealed.

use super::{Cursor, Page, Result, Store, WriteTx};

/// A row of `backup_jobs`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BackupRow {
    /// The backup's id, which is its job's.
    pub id: String,
    /// The machine.
    pub vm_id: String,
    /// The machine's name then.
    pub vm_name: String,
    /// The repository.
    pub repository_id: String,
    /// What was asked.
    pub requested_type: String,
    /// What is done.
    pub backup_type: String,
    /// Why.
    pub reason: String,
    /// The state.
    pub status: String,
    /// Where a running job is.
    pub phase: Option<String>,
    /// What the first disk builds on; cleared when the job ends without a point.
    pub parent_backup_id: Option<String>,
    /// What went wrong, as a code.
    pub error_code: Option<String>,
    /// What went wrong, in words.
    pub error_message: Option<String>,
    /// 1 where the repository no longer holds its files.
    pub missing: i64,
    /// What is known to be wrong with its files.
    pub damage: Option<String>,
    /// When a verification found that; `None` where a start did.
    pub damage_found_at: Option<i64>,
    /// Its place in the order of backups: higher is newer.
    pub place: i64,
    /// When it was made.
    pub created_at: i64,
    /// When it began.
    pub started_at: Option<i64>,
    /// When it ended.
    pub completed_at: Option<i64>,
    /// When the point came to be.
    pub sealed_at: Option<i64>,
    /// When it was last found whole.
    pub verified_at: Option<i64>,
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// One machine.
    pub vm_id: Option<String>,
    /// One state.
    pub status: Option<String>,
    /// One repository.
    pub repository_id: Option<String>,
}

/// The columns of [`BackupRow`].
macro_rules! columns {
    () => {
        "id, vm_id, vm_name, repository_id, requested_type, backup_type, reason, status, phase, \
         parent_backup_id, error_code, error_message, missing, damage, damage_found_at, place, \
         created_at, started_at, completed_at, sealed_at, verified_at"
    };
}

impl Store {
    /// The backup with this id.
    pub async fn backup(&self, id: &str) -> Result<Option<BackupRow>> {
        Ok(sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM backup_jobs WHERE tenant = $1 AND id = $2"
        ))
        .bind(&*self.tenant)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Ids that begin with `prefix`, at most 20 of them.
    pub async fn backup_ids_with(&self, prefix: &str) -> Result<Vec<String>> {
        let end = format!("{prefix}\u{10FFFF}");
        Ok(sqlx::query_scalar(
            "SELECT id FROM backup_jobs WHERE tenant = $1 AND id >= $2 AND id < $3
             ORDER BY id LIMIT 20",
        )
        .bind(&*self.tenant)
        .bind(prefix)
        .bind(end)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The ids that begin with `prefix` and were given out once, deleted ones included: an id, and
    /// the token that is made of it, never means two things.
    pub async fn used_backup_ids_with(&self, prefix: &str) -> Result<Vec<String>> {
        let end = format!("{prefix}\u{10FFFF}");
        Ok(sqlx::query_scalar(
            "SELECT id FROM backup_jobs WHERE tenant = $1 AND id >= $2 AND id < $3
             UNION SELECT object FROM audit WHERE tenant = $1 AND object >= $2 AND object < $3",
        )
        .bind(&*self.tenant)
        .bind(prefix)
        .bind(end)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One page of backups, newest first: those of one machine and repository in the order in which
    /// they were sealed.
    pub async fn backups(
        &self,
        filter: &ListFilter,
        after: &Cursor,
        limit: u32,
    ) -> Result<Page<BackupRow>> {
        let rows = sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM backup_jobs
             WHERE tenant = $1 AND (place < $2 OR (place = $2 AND id < $3))
               AND ($4 IS NULL OR vm_id = $4) AND ($5 IS NULL OR status = $5)
               AND ($6 IS NULL OR repository_id = $6)
             ORDER BY place DESC, id DESC LIMIT $7"
        ))
        .bind(&*self.tenant)
        .bind(after.place)
        .bind(&after.id)
        .bind(&filter.vm_id)
        .bind(&filter.status)
        .bind(&filter.repository_id)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::cut(rows, limit, |r: &BackupRow| Cursor {
            place: r.place,
            id: r.id.clone(),
        }))
    }

    /// Every backup that had not ended when the daemon did.
    pub async fn unfinished_backups(&self) -> Result<Vec<BackupRow>> {
        Ok(sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM backup_jobs WHERE tenant = $1 AND status IN ('pending', 'running')
             ORDER BY place, id"
        ))
        .bind(&*self.tenant)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteTx {
    /// Adds a backup, or replaces everything about one that is there but its place and what is
    /// known of its damage.
    pub async fn upsert_backup(&mut self, row: &BackupRow) -> Result<()> {
        sqlx::query(concat!(
            "INSERT INTO backup_jobs (tenant, ",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                       $17, $18, $19, $20, $21, $22)
             ON CONFLICT (tenant, id) DO UPDATE SET
                 backup_type = excluded.backup_type, reason = excluded.reason,
                 status = excluded.status, phase = excluded.phase,
                 parent_backup_id = excluded.parent_backup_id,
                 error_code = excluded.error_code, error_message = excluded.error_message,
                 missing = excluded.missing, started_at = excluded.started_at,
                 completed_at = excluded.completed_at, sealed_at = excluded.sealed_at,
                 verified_at = excluded.verified_at"
        ))
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.vm_id)
        .bind(&row.vm_name)
        .bind(&row.repository_id)
        .bind(&row.requested_type)
        .bind(&row.backup_type)
        .bind(&row.reason)
        .bind(&row.status)
        .bind(&row.phase)
        .bind(&row.parent_backup_id)
        .bind(&row.error_code)
        .bind(&row.error_message)
        .bind(row.missing)
        .bind(&row.damage)
        .bind(row.damage_found_at)
        .bind(row.place)
        .bind(row.created_at)
        .bind(row.started_at)
        .bind(row.completed_at)
        .bind(row.sealed_at)
        .bind(row.verified_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Whether an id is taken.
    pub async fn backup_exists(&mut self, id: &str) -> Result<bool> {
        let n: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM backup_jobs WHERE tenant = $1 AND id = $2")
                .bind(&*self.tenant)
                .bind(id)
                .fetch_one(&mut *self.tx)
                .await?;
        Ok(n > 0)
    }

    /// Moves a running backup to a phase.
    pub async fn set_backup_phase(&mut self, id: &str, phase: &str) -> Result<()> {
        sqlx::query(
            "UPDATE backup_jobs SET phase = $3
             WHERE tenant = $1 AND id = $2 AND status = 'running'",
        )
        .bind(&*self.tenant)
        .bind(id)
        .bind(phase)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Marks a backup of which nobody could find out whether it became a point. It has not ended.
    pub async fn doubt_backup(&mut self, id: &str, code: &str, message: &str) -> Result<()> {
        sqlx::query(
            "UPDATE backup_jobs SET phase = 'interrupted', error_code = $3, error_message = $4
             WHERE tenant = $1 AND id = $2 AND status IN ('pending', 'running')",
        )
        .bind(&*self.tenant)
        .bind(id)
        .bind(code)
        .bind(message)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Ends a backup without a point. Its parent is free again: the row no longer holds it. The
    /// disks that its start bound are free again, too.
    pub async fn end_backup(
        &mut self,
        id: &str,
        status: &str,
        code: &str,
        message: &str,
        at: i64,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE backup_jobs SET status = $3, error_code = $4, error_message = $5,
                 completed_at = $6, parent_backup_id = NULL,
                 phase = CASE phase WHEN 'interrupted' THEN phase END
             WHERE tenant = $1 AND id = $2 AND status IN ('pending', 'running')",
        )
        .bind(&*self.tenant)
        .bind(id)
        .bind(status)
        .bind(code)
        .bind(message)
        .bind(at)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "UPDATE backup_disks SET parent_backup_id = NULL
             WHERE tenant = $1 AND backup_id = $2 AND sealed_at IS NULL",
        )
        .bind(&*self.tenant)
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query("DELETE FROM vm_disks WHERE tenant = $1 AND bound_by = $2")
            .bind(&*self.tenant)
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Takes a backup out of the rows that say that they build on it, before it is removed: its
    /// files are gone, and what is left of those rows is missing or unfinished itself.
    pub async fn let_go_of_children(&mut self, id: &str) -> Result<()> {
        sqlx::query(
            "UPDATE backup_jobs SET parent_backup_id = NULL
             WHERE tenant = $1 AND parent_backup_id = $2",
        )
        .bind(&*self.tenant)
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "UPDATE backup_disks SET parent_backup_id = NULL
             WHERE tenant = $1 AND parent_backup_id = $2",
        )
        .bind(&*self.tenant)
        .bind(id)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Removes a backup and its disks. Refused by the database while another one builds on it, so
    /// the chains have to be moved before.
    pub async fn delete_backup(&mut self, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM backup_disks WHERE tenant = $1 AND backup_id = $2")
            .bind(&*self.tenant)
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        sqlx::query("DELETE FROM backup_jobs WHERE tenant = $1 AND id = $2")
            .bind(&*self.tenant)
            .bind(id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }
}
