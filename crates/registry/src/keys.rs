//! Keys of key access servers: their records, and how these change.

use kasbah_proto::policy::{KeyMode, KeyStatus};
use sqlx::{Any, AssertSqlSafe, Executor};

use crate::{
    Registry,
    db::Write,
    error::{Error, Result},
    kas,
    model::{
        KEY_COLUMNS, KasName, Key, KeyName, LabelChange, Labels, Listed, PROVIDER_COLUMNS, Page,
        PrivateKey, labels_text, new_id, now,
    },
    providers::{self, ProviderName},
    sort::{Filter, Order},
};

/// What a key record is selected from.
pub(crate) const KEY_TABLES: &str =
    "kas_key k JOIN kas a ON a.id = k.kas_id LEFT JOIN provider p ON p.id = k.provider_id";

/// What a list of keys is sorted by.
pub(crate) const KEY_ORDERS: [&str; 5] = [
    "k.created_at",
    "k.kid",
    "k.created_at",
    "k.updated_at",
    "CASE k.status WHEN 1 THEN 'ACTIVE' WHEN 2 THEN 'ROTATED' WHEN 3 THEN 'DISABLED' \
     WHEN 4 THEN 'COMPROMISED' ELSE 'UNSPECIFIED' END",
];

/// A key to be registered. Whether it makes sense was checked before.
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// See [`Key::kid`].
    pub kid: String,
    /// `policy.Algorithm`.
    pub algorithm: i32,
    /// `policy.KeyMode`.
    pub mode: i32,
    /// PEM text.
    pub public_pem: String,
    /// `private_key_ctx`.
    pub private_key: Option<PrivateKey>,
    /// UUID of its provider configuration.
    pub provider_id: Option<String>,
    /// See [`Key::legacy`].
    pub legacy: bool,
    /// Labels.
    pub labels: Labels,
}

/// Which keys to list.
#[derive(Debug, Clone, Default)]
pub struct KeyQuery {
    /// Only of this key access server, which must exist.
    pub kas: Option<KasName>,
    /// Only of this `policy.Algorithm`; 0 for any.
    pub algorithm: i32,
    /// Only legacy keys, or only others.
    pub legacy: Option<bool>,
    /// Part of the kid, in any case.
    pub search: String,
}

/// How the state of a key may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// As it was before it was disabled.
    Enabled,
    /// Out of use for now.
    Disabled,
    /// Out of use for good.
    Compromised,
}

/// What to change of a remote or public-only key.
#[derive(Debug, Clone, Copy)]
pub struct UnsafeChange<'a> {
    /// `policy.KeyMode`: 0, 3 (remote) or 4 (public key only).
    pub mode: i32,
    /// Empty for none.
    pub provider_id: &'a str,
}

impl Registry {
    /// Registers a key.
    ///
    /// # Errors
    /// [`Error::Relation`] when there is no such key access server or provider configuration;
    /// [`Error::Exists`] when the kid is taken, or there is a legacy key already.
    pub async fn create_key(&self, kas_id: &str, new: &NewKey) -> Result<Key> {
        let mut write = self.db.write().await?;
        let id = insert(&mut write, kas_id, new).await?;
        let key = find(&mut *write.tx, &KeyName::Id(id)).await?;
        write.commit().await?;
        Ok(key)
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn key(&self, name: &KeyName) -> Result<Key> {
        find(self.db.pool(), name).await
    }

    /// Keys.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the query names a key access server that is not there.
    pub async fn list_keys(
        &self,
        query: &KeyQuery,
        order: Order,
        page: Page,
    ) -> Result<Listed<Key>> {
        let filter = self.key_filter(query).await?;
        let total = filter.count(self.db.pool(), KEY_TABLES).await?;
        let tail = format!("{}{}{}", filter.sql(), order.sql("k.id"), page.sql());
        let rows = filter.fetch(self.db.pool(), select(&tail)).await?;
        let items = rows.iter().map(Key::from_row).collect::<Result<_>>()?;
        Ok(Listed { items, total, page })
    }

    /// All keys of a key access server, newest first; none when it is not registered.
    ///
    /// # Errors
    /// As any read.
    pub async fn keys_of(&self, kas_uri: &str) -> Result<Vec<Key>> {
        let mut filter = Filter::default();
        filter.text("a.uri", kas_uri);
        let order = Order::new(&KEY_ORDERS, 0, 0).sql("k.id");
        let rows =
            filter.fetch(self.db.pool(), select(&format!("{}{order}", filter.sql()))).await?;
        rows.iter().map(Key::from_row).collect()
    }

    async fn key_filter(&self, query: &KeyQuery) -> Result<Filter> {
        let mut filter = Filter::default();
        if let Some(name) = &query.kas {
            filter.text("k.kas_id", self.kas(name).await?.id);
        }
        if query.algorithm != 0 {
            filter.number("k.algorithm", query.algorithm);
        }
        if let Some(legacy) = query.legacy {
            filter.number("k.legacy", i64::from(legacy));
        }
        filter.search(&["k.kid"], &query.search);
        Ok(filter)
    }

    /// Changes the labels of a key.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn update_key(&self, id: &str, labels: LabelChange) -> Result<(Key, Key)> {
        let mut write = self.db.write().await?;
        let before = find(&mut *write.tx, &KeyName::Id(id.to_owned())).await?;
        let mut after = before.clone();
        labels.apply(&mut after.labels);
        after.updated_at = now();
        sqlx::query("UPDATE kas_key SET labels = $1, updated_at = $2 WHERE id = $3")
            .bind(labels_text(&after.labels))
            .bind(after.updated_at)
            .bind(&after.id)
            .execute(&mut *write.tx)
            .await?;
        write.commit().await?;
        Ok((before, after))
    }

    /// Takes a key out of use, or back into it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] for a compromised key that is to be used again.
    pub async fn set_key_state(&self, id: &str, state: KeyState) -> Result<Key> {
        let mut write = self.db.write().await?;
        let key = find(&mut *write.tx, &KeyName::Id(id.to_owned())).await?;
        let status = KeyStatus::try_from(key.status).unwrap_or_default();
        if status == KeyStatus::Compromised && state != KeyState::Compromised {
            return Err(Error::precondition(format!(
                "key {} is marked as compromised, for good",
                key.kid
            )));
        }
        let is_out = matches!(status, KeyStatus::Disabled | KeyStatus::Compromised);
        let (next, resumes) = match state {
            KeyState::Enabled if !is_out => (i64::from(key.status), None),
            KeyState::Enabled => (resumed(&mut write, &key.id).await?, None),
            KeyState::Disabled if is_out => {
                (i64::from(key.status), Some(resumed(&mut write, &key.id).await?))
            }
            KeyState::Disabled => (KeyStatus::Disabled as i64, Some(i64::from(key.status))),
            KeyState::Compromised => (KeyStatus::Compromised as i64, None),
        };
        sqlx::query("UPDATE kas_key SET status = $1, resumes = $2, updated_at = $3 WHERE id = $4")
            .bind(next)
            .bind(resumes)
            .bind(now())
            .bind(&key.id)
            .execute(&mut *write.tx)
            .await?;
        let key = find(&mut *write.tx, &KeyName::Id(key.id)).await?;
        write.commit().await?;
        Ok(key)
    }

    /// Stores the private key of a record wrapped by another key, unless it was changed meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] when the record has changed since `known`.
    pub async fn replace_private_key(&self, known: &Key, new: &PrivateKey) -> Result<()> {
        let mut write = self.db.write().await?;
        let current = find(&mut *write.tx, &KeyName::Id(known.id.clone())).await?;
        if current.private_key != known.private_key {
            return Err(Error::precondition(format!("key {} was changed meanwhile", known.kid)));
        }
        sqlx::query(
            "UPDATE kas_key SET private_key_id = $1, wrapped_key = $2, updated_at = $3 \
             WHERE id = $4",
        )
        .bind(&new.key_id)
        .bind(&new.wrapped_key)
        .bind(now())
        .bind(&known.id)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(())
    }

    /// Changes mode and provider of a remote or public-only key.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for changes that the modes do not allow.
    pub async fn unsafe_update_key(
        &self,
        id: &str,
        change: UnsafeChange<'_>,
    ) -> Result<(Key, Key)> {
        let mut write = self.db.write().await?;
        let before = find(&mut *write.tx, &KeyName::Id(id.to_owned())).await?;
        let mode = changed_mode(before.mode, change)?;
        let provider = match change.provider_id {
            "" => None,
            id => {
                let name = ProviderName::Id(id.to_owned());
                let found = providers::find(&mut *write.tx, &name).await;
                Some(found.map_err(|error| match error {
                    Error::NotFound => UNKNOWN_PROVIDER,
                    other => other,
                })?)
            }
        };
        // A key without a private part has no reference to one either.
        let private = before.private_key.as_ref().filter(|_| mode == KeyMode::Remote);
        sqlx::query(
            "UPDATE kas_key SET mode = $1, provider_id = $2, private_key_id = $3, \
             wrapped_key = $4, updated_at = $5 WHERE id = $6",
        )
        .bind(i64::from(mode as i32))
        .bind(provider.map(|provider| provider.id))
        .bind(private.map(|private| private.key_id.clone()))
        .bind(private.and_then(|private| private.wrapped_key.clone()))
        .bind(now())
        .bind(&before.id)
        .execute(&mut *write.tx)
        .await?;
        let after = find(&mut *write.tx, &KeyName::Id(before.id.clone())).await?;
        write.commit().await?;
        Ok((before, after))
    }

    /// Forgets a key, with its mappings.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] when kid or URI are not those of the key;
    /// [`Error::Relation`] for the base key.
    pub async fn delete_key(&self, id: &str, kid: &str, kas_uri: &str) -> Result<Key> {
        let mut write = self.db.write().await?;
        let key = find(&mut *write.tx, &KeyName::Id(id.to_owned())).await?;
        if key.kid != kid {
            return Err(Error::invalid("key id mismatch"));
        }
        if key.kas_uri != kas_uri {
            return Err(Error::invalid("kas uri mismatch"));
        }
        sqlx::query("DELETE FROM kas_key WHERE id = $1")
            .bind(&key.id)
            .execute(&mut *write.tx)
            .await?;
        write.commit().await?;
        Ok(key)
    }
}

/// Text and code are upstream's.
const UNKNOWN_PROVIDER: Error =
    Error::Missing("provider_config_id does not reference an existing provider config");

fn changed_mode(existing: i32, change: UnsafeChange<'_>) -> Result<KeyMode> {
    let existing = KeyMode::try_from(existing).unwrap_or_default();
    let target = KeyMode::try_from(change.mode).unwrap_or_default();
    if !matches!(existing, KeyMode::Remote | KeyMode::PublicKeyOnly) {
        return Err(Error::invalid("existing key mode cannot be updated"));
    }
    let has_provider = !change.provider_id.is_empty();
    match target {
        KeyMode::Unspecified if existing != KeyMode::Remote => Err(Error::invalid(
            "existing key mode cannot receive provider_config_id update with unspecified key mode",
        )),
        KeyMode::Unspecified | KeyMode::Remote if !has_provider => {
            Err(Error::invalid("provider_config_id is required for requested key mode"))
        }
        KeyMode::Unspecified | KeyMode::Remote => Ok(KeyMode::Remote),
        KeyMode::PublicKeyOnly if has_provider => {
            Err(Error::invalid("provider_config_id must be empty for requested key mode"))
        }
        KeyMode::PublicKeyOnly => Ok(KeyMode::PublicKeyOnly),
        KeyMode::ConfigRootKey | KeyMode::ProviderRootKey => {
            Err(Error::invalid("target key mode cannot be used for an unsafe update"))
        }
    }
}

/// What a disabled key was before.
async fn resumed(write: &mut Write<'_>, id: &str) -> Result<i64> {
    let resumes: Option<i64> = sqlx::query_scalar("SELECT resumes FROM kas_key WHERE id = $1")
        .bind(id.to_owned())
        .fetch_one(&mut *write.tx)
        .await?;
    Ok(resumes.unwrap_or(KeyStatus::Rotated as i64))
}

pub(crate) fn select(tail: &str) -> String {
    format!("SELECT {KEY_COLUMNS}, {PROVIDER_COLUMNS} FROM {KEY_TABLES}{tail}")
}

pub(crate) async fn find<'c>(
    executor: impl Executor<'c, Database = Any>,
    name: &KeyName,
) -> Result<Key> {
    let query = match name {
        KeyName::Id(id) => {
            let sql = select(" WHERE k.id = $1");
            sqlx::query(AssertSqlSafe(sql)).bind(id.to_lowercase())
        }
        KeyName::InKas(kas, kid) => {
            let (condition, value) = kas::named(kas);
            let sql = select(&format!(" WHERE {condition} AND k.kid = $2"));
            sqlx::query(AssertSqlSafe(sql)).bind(value).bind(kid.clone())
        }
    };
    Key::from_row(&query.fetch_one(executor).await?)
}

/// Writes the record of an active key; its id.
pub(crate) async fn insert(write: &mut Write<'_>, kas_id: &str, new: &NewKey) -> Result<String> {
    let (id, now) = (new_id(), now());
    let (key_id, wrapped_key) = match &new.private_key {
        Some(private) => (Some(private.key_id.clone()), private.wrapped_key.clone()),
        None => (None, None),
    };
    sqlx::query(
        "INSERT INTO kas_key (id, kas_id, kid, algorithm, status, mode, public_pem, \
         private_key_id, wrapped_key, provider_id, legacy, labels, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(&id)
    .bind(kas_id.to_lowercase())
    .bind(new.kid.clone())
    .bind(i64::from(new.algorithm))
    .bind(KeyStatus::Active as i64)
    .bind(i64::from(new.mode))
    .bind(new.public_pem.clone())
    .bind(key_id)
    .bind(wrapped_key)
    .bind(new.provider_id.as_ref().map(|id| id.to_lowercase()))
    .bind(i64::from(new.legacy))
    .bind(labels_text(&new.labels))
    .bind(now)
    .bind(now)
    .execute(&mut *write.tx)
    .await?;
    Ok(id)
}
