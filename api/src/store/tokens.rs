//! Access tokens, of which only the hash is known.

use super::{Result, Store, WriteTx};

/// A row of `tokens`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TokenRow {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// The SHA-256 of the token, in hexadecimal.
    pub hash: String,
    /// When it was made.
    pub created_at: i64,
    /// When it ends, if ever.
    pub expires_at: Option<i64>,
}

impl Store {
    /// The token with this hash.
    pub async fn token(&self, hash: &str) -> Result<Option<TokenRow>> {
        Ok(sqlx::query_as(
            "SELECT id, name, role, hash, created_at, expires_at FROM tokens
             WHERE tenant = $1 AND hash = $2",
        )
        .bind(&*self.tenant)
        .bind(hash)
        .fetch_optional(&self.pool)
        .await?)
    }

    /// Whether any token was ever made.
    pub async fn has_tokens(&self) -> Result<bool> {
        let n: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM tokens WHERE tenant = $1")
            .bind(&*self.tenant)
            .fetch_one(&self.pool)
            .await?;
        Ok(n > 0)
    }
}

impl WriteTx {
    /// Adds a token.
    pub async fn insert_token(&mut self, row: &TokenRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO tokens (tenant, id, name, role, hash, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&*self.tenant)
        .bind(&row.id)
        .bind(&row.name)
        .bind(&row.role)
        .bind(&row.hash)
        .bind(row.created_at)
        .bind(row.expires_at)
        .execute(&mut *self.tx)
        .await?;
        Ok(())
    }
}
