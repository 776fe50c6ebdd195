//! Rotation: a new key takes over from an active one.

use kasbah_proto::policy::KeyStatus;

use crate::{
    NewKey, Registry, base_key,
    db::Write,
    error::{Error, Result},
    keys,
    mappings::{self, Moved},
    model::{Key, KeyName, now},
};

/// What a rotation did.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The key that took over.
    pub new: Key,
    /// The key that was active.
    pub old: Key,
    /// Policy objects that are mapped to the new key now.
    pub moved: Moved,
}

impl Registry {
    /// Replaces an active key by a new one of the same key access server, with its mappings and
    /// its place as base key. The old one goes on decrypting.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] when the old key is not active, or is the base
    /// key and the new one cannot be; otherwise as [`Registry::create_key`].
    pub async fn rotate_key(&self, old: &KeyName, new: &NewKey) -> Result<Rotation> {
        let mut write = self.db.write().await?;
        let rotation = rotate(&mut write, old, new).await?;
        write.commit().await?;
        Ok(rotation)
    }
}

/// Of a write that may do more.
pub(crate) async fn rotate(write: &mut Write<'_>, old: &KeyName, new: &NewKey) -> Result<Rotation> {
    let old = keys::find(&mut *write.tx, old).await?;
    if old.status != KeyStatus::Active as i32 {
        let status = KeyStatus::try_from(old.status).unwrap_or_default();
        return Err(Error::precondition(format!(
            "only an active key can be rotated; key {} is {}",
            old.kid,
            status.as_str_name()
        )));
    }
    sqlx::query("UPDATE kas_key SET status = $1, updated_at = $2 WHERE id = $3")
        .bind(KeyStatus::Rotated as i64)
        .bind(now())
        .bind(old.id.clone())
        .execute(&mut *write.tx)
        .await?;
    let id = keys::insert(write, &old.kas_id, &NewKey { legacy: false, ..new.clone() }).await?;
    let new = keys::find(&mut *write.tx, &KeyName::Id(id)).await?;
    if base_key::current(&mut *write.tx).await?.is_some_and(|base| base.id == old.id) {
        base_key::set(write, &new).await?;
    }
    let moved = mappings::move_to(write, &old.id, &new.id).await?;
    let old = keys::find(&mut *write.tx, &KeyName::Id(old.id)).await?;
    Ok(Rotation { new, old, moved })
}
