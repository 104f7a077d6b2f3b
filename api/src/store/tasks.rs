//! Jobs that make no restore point: restores and verifications.

use super::{Cursor, Page, Result, Store, WriteTx, db};

/// A row of `tasks`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TaskRow {
    /// The job's id.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// The restore point that it reads. No key: the job is a record, the point may go.
    pub backup_id: String,
    /// The machine's name then.
    pub vm_name: String,
    /// The disk, where it is about one.
    pub disk_id: Option<i64>,
    /// Where it writes to.
    pub target: Option<String>,
    /// The state.
    pub status: String,
    /// Where a running job is.
    pub phase: Option<String>,
    /// Bytes in all.
    #[sqlx(try_from = "i64")]
    pub total_bytes: u64,
    /// Bytes done.
    #[sqlx(try_from = "i64")]
    pub bytes_transferred: u64,
    /// What went wrong, as a code.
    pub error_code: Option<String>,
    /// What went wrong, in words.
    pub error_message: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it began.
    pub started_at: Option<i64>,
    /// When it ended.
    pub completed_at: Option<i64>,
}

/// The columns of [`TaskRow`].
macro_rules! columns {
    () => {
        "id, kind, backup_id, vm_name, disk_id, target, status, phase, total_bytes, \
         bytes_transferred, error_code, error_message, created_at, started_at, completed_at"
    };
}

impl Store {
    /// The task with this id.
    pub async fn task(&self, id: &str) -> Result<Option<TaskRow>> {
        Ok(sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE tenant = $1 AND id = $2"
        ))
        .bind(&*self.tenant)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// One page of tasks, newest first.
    pub async fn tasks(&self, after: &Cursor, limit: u32) -> Result<Page<TaskRow>> {
        let rows = sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE tenant = $1 AND (created_at < $2 OR (created_at = $2 AND id < $3))
             ORDER BY created_at DESC, id DESC LIMIT $4"
        ))
        .bind(&*self.tenant)
        .bind(after.place)
        .bind(&after.id)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::cut(rows, limit, |r: &TaskRow| Cursor {
            place: r.created_at,
            id: r.id.clone(),
        }))
    }
}

impl WriteTx {
    /// Adds a task, or renews its state.
    pub async fn upsert_task(&mut self, row: &TaskRow) -> Result<()> {
        sqlx::query(concat!(
            "INSERT INTO tasks (tenant, ",
            columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
             ON CONFLICT (tenant, id) DO UPDATE SET
                 status = excluded.status, phase = excluded.phase,
                 total_bytes = excluded.total_bytes,
                 bytes_transferred = excluded.bytes_transferred,
                 error_code = excluded.error_code, error_message = excluded.error_message,
                 started_at = excluded.started_at, completed_at = excluded.completed_at"
        ))
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.kind)
        .bind(&row.backup_id)
        .bind(&row.vm_name)
        .bind(row.disk_id)
        .bind(&row.target)
        .bind(&row.status)
        .bind(&row.phase)
        .bind(db(row.total_bytes))
        .bind(db(row.bytes_transferred))
        .bind(&row.error_code)
        .bind(&row.error_message)
        .bind(row.created_at)
        .bind(row.started_at)
        .bind(row.completed_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Ends every task that had not ended when the daemon did; says how many.
    pub async fn interrupt_tasks(&mut self, code: &str, message: &str, at: i64) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE tasks SET status = 'failed', phase = 'interrupted', error_code = $2,
                 error_message = $3, completed_at = $4
             WHERE tenant = $1 AND status IN ('pending', 'running')",
        )
        .bind(&*self.tenant)
        .bind(code)
        .bind(message)
        .bind(at)
        .execute(&mut *self.tx)
        .await?;
        Ok(done.rows_affected())
    }
}
