//! The catalog: SQL and nothing else.
//!
//! One handle speaks for one tenant. Reads go through the pool; every change goes through
//! [`Store::begin_write`], which takes the writer's lock at its beginning, so that a transaction
//! that reads before it writes is never told "database is locked". Columns are TEXT, BIGINT and
//! BLOB; times are microseconds UTC.

mod audit;
mod backups;
mod chains;
mod disks;
mod page;
mod points;
mod repositories;
mod tasks;
mod tokens;
mod vms;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use audit::AuditRow;
pub use backups::{BackupRow, ListFilter};
pub use chains::ChainRow;
pub use disks::DiskRow;
pub use page::{Cursor, Page};
pub use repositories::RepositoryRow;
pub use tasks::TaskRow;
pub use tokens::TokenRow;
pub use vms::{VmDiskRow, VmRow};

/// What a store function answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A failed look into the catalog.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed or refused.
    #[error("the catalog failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the catalog could not be migrated: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A stored value is not what this version writes.
    #[error("the catalog holds an unreadable value: {0}")]
    Corrupt(String),
    /// A cursor that this server did not make.
    #[error("the cursor is not one of this server's")]
    BadCursor,
}

impl StoreError {
    /// Whether a unique key or a foreign key stood in the way.
    pub fn is_constraint(&self) -> bool {
        // SQLite reports RESTRICT as a constraint of its own kind (1811).
        matches!(self, Self::Database(sqlx::Error::Database(e))
            if e.is_unique_violation() || e.is_foreign_key_violation()
                || e.code().as_deref() == Some("1811"))
    }
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// The catalog, as one tenant sees it.
///
/// Writers queue before they take a connection: those who wait for SQLite's lock would otherwise
/// hold all connections, and the one who has it could not read.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    tenant: Arc<str>,
    writer: Arc<Mutex<()>>,
}

/// A transaction that may write. Dropped without [`commit`](Self::commit), nothing happened.
#[derive(Debug)]
pub struct WriteTx {
    tx: sqlx::Transaction<'static, sqlx::Sqlite>,
    tenant: Arc<str>,
    /// Let go of after the transaction has ended.
    _turn: OwnedMutexGuard<()>,
}

impl Store {
    /// The tenant of a daemon that serves only one.
    pub const DEFAULT_TENANT: &'static str = "default";

    /// Opens the catalog at `path`, makes it where it is missing, and brings it up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(10))
            // SQLite itself rolls back on a full disk or a failed write; the driver then still
            // counts a transaction that is gone. Such a connection is closed, not used again.
            .before_acquire(|connection, _| {
                let usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self {
            pool,
            tenant: Arc::from(Self::DEFAULT_TENANT),
            writer: Arc::default(),
        })
    }

    /// The same catalog as another tenant sees it.
    pub fn for_tenant(&self, tenant: &str) -> Self {
        Self {
            pool: self.pool.clone(),
            tenant: Arc::from(tenant),
            writer: Arc::clone(&self.writer),
        }
    }

    /// A transaction that holds the writer's lock from its first moment.
    pub async fn begin_write(&self) -> Result<WriteTx> {
        let turn = Arc::clone(&self.writer).lock_owned().await;
        Ok(WriteTx {
            tx: self.pool.begin_with("BEGIN IMMEDIATE").await?,
            tenant: Arc::clone(&self.tenant),
            _turn: turn,
        })
    }

    /// Whether nothing more is read or written here.
    pub fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// Waits for what runs, writes the log back and closes.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl WriteTx {
    /// Makes everything in it durable.
    pub async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }
}

/// A count as the catalog holds it. Beyond 2^63 nothing of ours counts.
pub(crate) fn db(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A count as it was stored; below 0 nothing was.
pub(crate) fn un(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

#[cfg(test)]
mod tests;
