//! Machines and their disks.

use super::{Cursor, Page, Result, Store, WriteTx, db};

/// A row of `vms`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct VmRow {
    /// The machine's UUID.
    pub id: String,
    /// The short readable id.
    pub context_id: String,
    /// The name.
    pub name: String,
    /// When it was registered.
    pub created_at: i64,
}

/// A row of `vm_disks`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct VmDiskRow {
    /// The machine.
    pub vm_id: String,
    /// The disk's number.
    #[sqlx(try_from = "i64")]
    pub disk_id: u32,
    /// Its identity.
    pub device_key: String,
    /// Its last known size.
    #[sqlx(try_from = "i64")]
    pub size_bytes: u64,
    /// Where its bytes come from by default.
    pub source: String,
}

impl Store {
    /// The machine with this id.
    pub async fn vm(&self, id: &str) -> Result<Option<VmRow>> {
        Ok(sqlx::query_as(
            "SELECT id, context_id, name, created_at FROM vms WHERE tenant = $1 AND id = $2",
        )
        .bind(&*self.tenant)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// The machines with this name, at most 20 of them.
    pub async fn vms_named(&self, name: &str) -> Result<Vec<VmRow>> {
        Ok(sqlx::query_as(
            "SELECT id, context_id, name, created_at FROM vms
             WHERE tenant = $1 AND name = $2 ORDER BY created_at, id LIMIT 20",
        )
        .bind(&*self.tenant)
        .bind(name)
        .fetch_all(&self.pool)
        .await?)
    }

    /// One page of machines, newest first.
    pub async fn vms(&self, after: &Cursor, limit: u32) -> Result<Page<VmRow>> {
        let rows = sqlx::query_as(
            "SELECT id, context_id, name, created_at FROM vms
             WHERE tenant = $1 AND (created_at < $2 OR (created_at = $2 AND id < $3))
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(&*self.tenant)
        .bind(after.place)
        .bind(&after.id)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::cut(rows, limit, |r: &VmRow| Cursor {
            place: r.created_at,
            id: r.id.clone(),
        }))
    }

    /// The disks of a machine, by number.
    pub async fn vm_disks(&self, vm_id: &str) -> Result<Vec<VmDiskRow>> {
        Ok(sqlx::query_as(
            "SELECT vm_id, disk_id, device_key, size_bytes, source FROM vm_disks
             WHERE tenant = $1 AND vm_id = $2 ORDER BY disk_id",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteTx {
    /// Whether a machine with this id is registered.
    pub async fn vm_exists(&mut self, id: &str) -> Result<bool> {
        let n: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM vms WHERE tenant = $1 AND id = $2")
            .bind(&*self.tenant)
            .bind(id)
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(n > 0)
    }

    /// The id of a machine with this name, where there is one.
    pub async fn vm_named(&mut self, name: &str) -> Result<Option<String>> {
        Ok(
            sqlx::query_scalar("SELECT id FROM vms WHERE tenant = $1 AND name = $2 LIMIT 1")
                .bind(&*self.tenant)
                .bind(name)
                .fetch_optional(&mut *self.tx)
                .await?,
        )
    }

    /// Adds a machine.
    pub async fn insert_vm(&mut self, row: &VmRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO vms (tenant, id, context_id, name, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.context_id)
        .bind(&row.name)
        .bind(row.created_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Adds a disk that a job has to do with, where there is none of this number: what is known of
    /// one stays as it is until a point of it is sealed.
    pub async fn insert_vm_disk_if_new(&mut self, row: &VmDiskRow, job: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO vm_disks (tenant, vm_id, disk_id, device_key, size_bytes, source, bound_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant, vm_id, disk_id) DO NOTHING",
        )
        .bind(&*self.tenant)
        .bind(&row.vm_id)
        .bind(i64::from(row.disk_id))
        .bind(&row.device_key)
        .bind(db(row.size_bytes))
        .bind(&row.source)
        .bind(job)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }

    /// Adds a disk, or sets size and source of one that is there. The identity never
    /// changes, and is bound for good from now on.
    pub async fn upsert_vm_disk(&mut self, row: &VmDiskRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO vm_disks (tenant, vm_id, disk_id, device_key, size_bytes, source)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant, vm_id, disk_id)
             DO UPDATE SET size_bytes = excluded.size_bytes, source = excluded.source,
                 bound_by = NULL",
        )
        .bind(&*self.tenant)
        .bind(&row.vm_id)
        .bind(i64::from(row.disk_id))
        .bind(&row.device_key)
        .bind(db(row.size_bytes))
        .bind(&row.source)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
