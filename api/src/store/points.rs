//! Restore points among the backups: their order, and whether they are whole.
//!
//! A place is the time at which a backup was made, or one more than the place before it in its
//! machine. So the points of one machine in one repository stand in the order of their manifests'
//! sequence, whatever a clock said, and those of several machines about in the order of time.

use super::{Result, Store, WriteTx};

impl Store {
    /// How many machines have a sealed point.
    pub async fn machines_with_points(&self) -> Result<u64> {
        let n: i64 = sqlx::query_scalar(
            "SELECT COUNT(DISTINCT vm_id) FROM backup_jobs
             WHERE tenant = $1 AND status = 'completed'",
        )
        .bind(&*self.tenant)
        .fetch_one(&self.pool)
        .await?;
        Ok(super::un(n))
    }

    /// The newest sealed point whose files are there, of one machine or of all.
    pub async fn latest_backup(&self, vm_id: Option<&str>) -> Result<Option<String>> {
        Ok(sqlx::query_scalar(
            "SELECT id FROM backup_jobs
             WHERE tenant = $1 AND status = 'completed' AND missing = 0
               AND ($2 IS NULL OR vm_id = $2)
             ORDER BY place DESC, id DESC LIMIT 1",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// How many sealed points are known to be damaged, and how many have lost their files.
    pub async fn ailing_points(&self) -> Result<(u64, u64)> {
        let (damaged, missing): (i64, i64) = sqlx::query_as(
            "SELECT COUNT(damage), COALESCE(SUM(missing), 0) FROM backup_jobs
             WHERE tenant = $1 AND status = 'completed'",
        )
        .bind(&*self.tenant)
        .fetch_one(&self.pool)
        .await?;
        Ok((super::un(damaged), super::un(missing)))
    }

    /// The sealed points of a machine that are known to be damaged, with what was found.
    pub async fn damaged_points(&self, vm_id: &str) -> Result<Vec<(String, String)>> {
        Ok(sqlx::query_as(
            "SELECT id, damage FROM backup_jobs
             WHERE tenant = $1 AND vm_id = $2 AND status = 'completed' AND damage IS NOT NULL
             ORDER BY id",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_all(&self.pool)
        .await?)
    }

    /// The ids of all sealed points of a repository.
    pub async fn sealed_ids(&self, repository_id: &str) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            "SELECT id FROM backup_jobs
             WHERE tenant = $1 AND repository_id = $2 AND status = 'completed' ORDER BY id",
        )
        .bind(&*self.tenant)
        .bind(repository_id)
        .fetch_all(&self.pool)
        .await?)
    }
}

impl WriteTx {
    /// The place of a backup that is made at this time: behind all others of its machine, whatever
    /// the clock says.
    pub async fn next_place(&mut self, vm_id: &str, at: i64) -> Result<i64> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(place) FROM backup_jobs WHERE tenant = $1 AND vm_id = $2",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(last.map_or(at, |last| at.max(last.saturating_add(1))))
    }

    /// Puts a point that has just been sealed behind all sealed ones of its machine.
    pub async fn place_last(&mut self, vm_id: &str, id: &str) -> Result<()> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT MAX(place) FROM backup_jobs
             WHERE tenant = $1 AND vm_id = $2 AND id <> $3 AND status = 'completed'",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .bind(id)
        .fetch_one(&mut *self.tx)
        .await?;
        if let Some(last) = last {
            sqlx::query(
                "UPDATE backup_jobs SET place = $3 WHERE tenant = $1 AND id = $2 AND place < $3",
            )
            .bind(&*self.tenant)
            .bind(id)
            .bind(last.saturating_add(1))
            .execute(&mut *self.tx)
            .await?;
        }
        Ok(())
    }

    /// The ids and places of a machine's sealed points in one repository, newest first; those that
    /// are missing only where they are asked for.
    pub async fn sealed_of(
        &mut self,
        vm_id: &str,
        repository_id: &str,
        with_missing: bool,
    ) -> Result<Vec<(String, i64)>> {
        Ok(sqlx::query_as(
            "SELECT id, place FROM backup_jobs
             WHERE tenant = $1 AND vm_id = $2 AND repository_id = $3 AND status = 'completed'
               AND missing <= $4
             ORDER BY place DESC, id DESC",
        )
        .bind(&*self.tenant)
        .bind(vm_id)
        .bind(repository_id)
        .bind(i64::from(with_missing))
        .fetch_all(&mut *self.tx)
        .await?)
    }

    /// Gives a backup another place.
    pub async fn set_backup_place(&mut self, id: &str, place: i64) -> Result<()> {
        sqlx::query("UPDATE backup_jobs SET place = $3 WHERE tenant = $1 AND id = $2")
            .bind(&*self.tenant)
            .bind(id)
            .bind(place)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Says whether the repository still holds the files.
    pub async fn set_backup_missing(&mut self, id: &str, missing: bool) -> Result<()> {
        sqlx::query("UPDATE backup_jobs SET missing = $3 WHERE tenant = $1 AND id = $2")
            .bind(&*self.tenant)
            .bind(id)
            .bind(i64::from(missing))
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Records that every byte was found right.
    pub async fn set_backup_verified(&mut self, id: &str, at: i64) -> Result<()> {
        self.set_backup_health(id, None, None, Some(at)).await
    }

    /// Records what is wrong with a point's files, or that nothing is known to be: it is not
    /// verified then, until somebody reads all of it again. `found_at` is the time of the
    /// verification that found it, if one did.
    pub async fn set_backup_damage(
        &mut self,
        id: &str,
        damage: Option<&str>,
        found_at: Option<i64>,
    ) -> Result<()> {
        self.set_backup_health(id, damage, found_at, None).await
    }

    async fn set_backup_health(
        &mut self,
        id: &str,
        damage: Option<&str>,
        found_at: Option<i64>,
        verified_at: Option<i64>,
    ) -> Result<()> {
        sqlx::query(
            "UPDATE backup_jobs SET damage = $3, damage_found_at = $4, verified_at = $5
             WHERE tenant = $1 AND id = $2",
        )
        .bind(&*self.tenant)
        .bind(id)
        .bind(damage)
        .bind(found_at)
        .bind(verified_at)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query(
            "UPDATE backup_disks SET verified_at = $3 WHERE tenant = $1 AND backup_id = $2",
        )
        .bind(&*self.tenant)
        .bind(id)
        .bind(verified_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
