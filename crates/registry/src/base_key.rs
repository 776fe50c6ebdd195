//! The base key: the one that clients use for data without mappings of its own.

use kasbah_proto::policy::{KeyMode, KeyStatus};
use sqlx::{Any, AssertSqlSafe, Executor};

use crate::{
    Registry,
    db::Write,
    error::{Error, Result},
    keys::{self, select},
    model::{Key, KeyName},
};

impl Registry {
    /// The base key, if one is set.
    ///
    /// # Errors
    /// As any read.
    pub async fn base_key(&self) -> Result<Option<Key>> {
        current(self.db.pool()).await
    }

    /// Makes a key the base key; the new one and the one before.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] for a key that is not active or has no private
    /// part here.
    pub async fn set_base_key(&self, name: &KeyName) -> Result<(Key, Option<Key>)> {
        let mut write = self.db.write().await?;
        let key = keys::find(&mut *write.tx, name).await?;
        let previous = current(&mut *write.tx).await?;
        set(&mut write, &key).await?;
        write.commit().await?;
        Ok((key, previous))
    }
}

pub(crate) async fn current<'c>(
    executor: impl Executor<'c, Database = Any>,
) -> Result<Option<Key>> {
    let sql = select(" JOIN base_key b ON b.key_id = k.id");
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(executor).await?;
    row.as_ref().map(Key::from_row).transpose()
}

pub(crate) async fn set(write: &mut Write<'_>, key: &Key) -> Result<()> {
    let refuse = |what: &str, name: &str| {
        Err(Error::precondition(format!("cannot set key of {what} {name} as default key")))
    };
    let mode = KeyMode::try_from(key.mode).unwrap_or_default();
    if matches!(mode, KeyMode::PublicKeyOnly | KeyMode::Unspecified) {
        return refuse("mode", mode.as_str_name());
    }
    let status = KeyStatus::try_from(key.status).unwrap_or_default();
    if status != KeyStatus::Active {
        return refuse("status", status.as_str_name());
    }
    sqlx::query(
        "INSERT INTO base_key (singleton, key_id) VALUES (1, $1) \
         ON CONFLICT (singleton) DO UPDATE SET key_id = excluded.key_id",
    )
    .bind(key.id.clone())
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}
