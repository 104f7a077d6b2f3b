//! The audit log: who changed what. Written in the transaction of the change itself.

use super::{Result, WriteTx};

/// A row of `audit`. Never holds a secret: no token, no export name with its secret, no URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// When.
    pub at: i64,
    /// The name of the token.
    pub actor: String,
    /// The verb, such as `backup.start`.
    pub action: String,
    /// The id of what it was done to.
    pub object: String,
    /// The rest, in words.
    pub detail: String,
}

impl WriteTx {
    /// Adds a line.
    pub async fn audit(&mut self, row: &AuditRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO audit (tenant, id, at, actor, action, object, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&*self.tenant)
        .bind(uuid::Uuid::new_v4().to_string())
        .bind(row.at)
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.object)
        .bind(&row.detail)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
