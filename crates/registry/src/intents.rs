//! Keys that are being made in a device.
//!
//! A device and a database share no transaction. So what is about to be made is written down
//! first, and struck out in the same transaction that registers the key: whatever a crash leaves,
//! the record says where to look.

use sqlx::{Any, Executor, Row};

use crate::{
    Registry,
    db::Kind,
    error::Result,
    keys::{self, NewKey},
    model::{Key, KeyName, Labels, labels, labels_text, now, small},
    rotation,
};

/// How long another node may take to make a key. Ours are known by their ids.
const FOREIGN_AGE: i64 = 120_000_000;

/// A key that somebody began to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// UUID.
    pub id: String,
    /// UUID of the key access server.
    pub kas_id: String,
    /// Name of the key.
    pub kid: String,
    /// `policy.Algorithm`.
    pub algorithm: i32,
    /// `policy.KeyMode`.
    pub mode: i32,
    /// UUID of the provider configuration.
    pub provider_id: String,
    /// See [`Key::legacy`].
    pub legacy: bool,
    /// Labels of the key.
    pub labels: Labels,
    /// UUID of the key it replaces.
    pub rotates: Option<String>,
    /// Microseconds since 1970.
    pub created_at: i64,
}

impl Registry {
    /// Writes down that a key is about to be made; the caller draws the id, and sets no time.
    ///
    /// # Errors
    /// [`crate::Error::Exists`] when a key of that name is there or being made;
    /// [`crate::Error::Relation`] when there is no such key access server or provider.
    pub async fn begin_key(&self, mut intent: Intent) -> Result<Intent> {
        intent.created_at = now();
        let mut write = self.db.write().await?;
        let taken: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM kas_key WHERE kas_id = $1 AND kid = $2")
                .bind(intent.kas_id.clone())
                .bind(intent.kid.clone())
                .fetch_one(&mut *write.tx)
                .await?;
        if taken > 0 {
            return Err(crate::Error::Exists);
        }
        sqlx::query(
            "INSERT INTO key_intent (id, kas_id, kid, algorithm, mode, provider_id, legacy, \
             labels, rotates, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(intent.id.clone())
        .bind(intent.kas_id.clone())
        .bind(intent.kid.clone())
        .bind(i64::from(intent.algorithm))
        .bind(i64::from(intent.mode))
        .bind(intent.provider_id.clone())
        .bind(i64::from(intent.legacy))
        .bind(labels_text(&intent.labels))
        .bind(intent.rotates.clone())
        .bind(intent.created_at)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(intent)
    }

    /// Registers the key that was made, and strikes the intent out, at once.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when the intent is not there; otherwise as
    /// [`Registry::create_key`] and [`Registry::rotate_key`].
    pub async fn finish_key(&self, intent: &Intent, new: &NewKey) -> Result<Key> {
        let mut write = self.db.write().await?;
        if strike_out(&mut *write.tx, &intent.id).await? == 0 {
            return Err(crate::Error::NotFound);
        }
        let key = if let Some(old) = &intent.rotates {
            rotation::rotate(&mut write, &KeyName::Id(old.clone()), new).await?.new
        } else {
            let id = keys::insert(&mut write, &intent.kas_id, new).await?;
            keys::find(&mut *write.tx, &KeyName::Id(id)).await?
        };
        write.commit().await?;
        Ok(key)
    }

    /// Strikes an intent out: nothing was made, or what was made is gone.
    ///
    /// # Errors
    /// As any write.
    pub async fn abandon_key(&self, intent: &Intent) -> Result<()> {
        let mut write = self.db.write().await?;
        strike_out(&mut *write.tx, &intent.id).await?;
        write.commit().await?;
        Ok(())
    }

    /// Intents that nobody works on any more; `ours` says which this process works on. Of other
    /// nodes that share the database it is known only that they take two minutes at most.
    ///
    /// # Errors
    /// As any read.
    pub async fn interrupted_keys(&self, ours: impl Fn(&str) -> bool) -> Result<Vec<Intent>> {
        let rows = sqlx::query("SELECT * FROM key_intent ORDER BY created_at, id")
            .fetch_all(self.db.pool())
            .await?;
        let mut intents = Vec::new();
        for row in &rows {
            let intent = Intent {
                id: row.try_get("id")?,
                kas_id: row.try_get("kas_id")?,
                kid: row.try_get("kid")?,
                algorithm: small(row, "algorithm")?,
                mode: small(row, "mode")?,
                provider_id: row.try_get("provider_id")?,
                legacy: row.try_get::<i64, _>("legacy")? != 0,
                labels: labels(row, "labels")?,
                rotates: row.try_get("rotates")?,
                created_at: row.try_get("created_at")?,
            };
            let age = now() - intent.created_at;
            let may_be_foreign = self.db.kind() == Kind::Postgres && age < FOREIGN_AGE;
            if !ours(&intent.id) && !may_be_foreign {
                intents.push(intent);
            }
        }
        Ok(intents)
    }
}

async fn strike_out<'c>(executor: impl Executor<'c, Database = Any>, id: &str) -> Result<u64> {
    let done = sqlx::query("DELETE FROM key_intent WHERE id = $1")
        .bind(id.to_owned())
        .execute(executor)
        .await?;
    Ok(done.rows_affected())
}
