//! Key access servers.

use sqlx::{Any, AssertSqlSafe, Executor};

use crate::{
    Registry,
    error::{Error, Result},
    model::{
        KAS_COLUMNS, Kas, KasName, LabelChange, Labels, Listed, Page, labels_text, new_id, now,
    },
    sort::{Filter, Order},
};

/// A key access server to be.
#[derive(Debug, Clone, Default)]
pub struct NewKas {
    /// See [`Kas::uri`].
    pub uri: String,
    /// In any case; empty for none.
    pub name: String,
    /// `policy.SourceType`.
    pub source_type: i32,
    /// The deprecated `policy.PublicKey`, as a protobuf message.
    pub public_key: Vec<u8>,
    /// Labels.
    pub labels: Labels,
}

/// What to change of a key access server.
#[derive(Debug, Clone, Default)]
pub struct KasChange {
    /// Empty to keep it.
    pub uri: String,
    /// Empty to keep it.
    pub name: String,
    /// 0 to keep it.
    pub source_type: i32,
    /// The deprecated `policy.PublicKey`, as a protobuf message.
    pub public_key: Option<Vec<u8>>,
    /// Labels.
    pub labels: LabelChange,
    /// Whether a caller said how to change labels, which counts as a change.
    pub mentions_labels: bool,
}

/// What a list of key access servers is sorted by.
pub(crate) const KAS_ORDERS: [&str; 5] =
    ["a.created_at", "COALESCE(a.name, '')", "a.uri", "a.created_at", "a.updated_at"];

impl Registry {
    /// Registers a key access server.
    ///
    /// # Errors
    /// [`Error::Exists`] when the URI or the name is taken.
    pub async fn create_kas(&self, new: NewKas) -> Result<Kas> {
        let now = now();
        let kas = Kas {
            id: new_id(),
            uri: new.uri,
            name: Some(new.name.to_lowercase()).filter(|name| !name.is_empty()),
            source_type: new.source_type,
            public_key: new.public_key,
            labels: new.labels,
            created_at: now,
            updated_at: now,
        };
        let mut write = self.db.write().await?;
        sqlx::query(
            "INSERT INTO kas (id, uri, name, source_type, public_key, labels, created_at, \
             updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&kas.id)
        .bind(&kas.uri)
        .bind(&kas.name)
        .bind(i64::from(kas.source_type))
        .bind(&kas.public_key)
        .bind(labels_text(&kas.labels))
        .bind(kas.created_at)
        .bind(kas.updated_at)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(kas)
    }

    /// The key access server of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn kas(&self, name: &KasName) -> Result<Kas> {
        find(self.db.pool(), name).await
    }

    /// Key access servers.
    ///
    /// # Errors
    /// As any read.
    pub async fn list_kas(&self, search: &str, order: Order, page: Page) -> Result<Listed<Kas>> {
        let mut filter = Filter::default();
        filter.search(&["a.name", "a.uri"], search);
        let total = filter.count(self.db.pool(), "kas a").await?;
        let sql = format!(
            "SELECT {KAS_COLUMNS} FROM kas a{}{}{}",
            filter.sql(),
            order.sql("a.id"),
            page.sql()
        );
        let rows = filter.fetch(self.db.pool(), sql).await?;
        let items = rows.iter().map(Kas::from_row).collect::<Result<_>>()?;
        Ok(Listed { items, total, page })
    }

    /// Changes a key access server.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`] when the URI or the name is taken;
    /// [`Error::Invalid`] when nothing is to change.
    pub async fn update_kas(&self, id: &str, change: KasChange) -> Result<Kas> {
        let mut write = self.db.write().await?;
        let mut kas = find(&mut *write.tx, &KasName::Id(id.to_owned())).await?;
        let changes = !change.uri.is_empty()
            || !change.name.is_empty()
            || change.source_type != 0
            || change.public_key.is_some()
            || change.mentions_labels;
        if !changes {
            return Err(Error::invalid("cannot update to unspecified value"));
        }
        if !change.uri.is_empty() {
            kas.uri = change.uri;
        }
        if !change.name.is_empty() {
            kas.name = Some(change.name.to_lowercase());
        }
        if change.source_type != 0 {
            kas.source_type = change.source_type;
        }
        kas.public_key = change.public_key.unwrap_or(kas.public_key);
        change.labels.apply(&mut kas.labels);
        kas.updated_at = now();
        sqlx::query(
            "UPDATE kas SET uri = $1, name = $2, source_type = $3, public_key = $4, labels = $5, \
             updated_at = $6 WHERE id = $7",
        )
        .bind(&kas.uri)
        .bind(&kas.name)
        .bind(i64::from(kas.source_type))
        .bind(&kas.public_key)
        .bind(labels_text(&kas.labels))
        .bind(kas.updated_at)
        .bind(&kas.id)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(kas)
    }

    /// Forgets a key access server.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Relation`] while it has keys.
    pub async fn delete_kas(&self, id: &str) -> Result<()> {
        let mut write = self.db.write().await?;
        let kas = find(&mut *write.tx, &KasName::Id(id.to_owned())).await?;
        sqlx::query("DELETE FROM kas WHERE id = $1").bind(&kas.id).execute(&mut *write.tx).await?;
        write.commit().await?;
        Ok(())
    }
}

/// The condition that names a key access server, with `$1`, and its value.
pub(crate) fn named(name: &KasName) -> (&'static str, String) {
    match name {
        KasName::Id(id) => ("a.id = $1", id.to_lowercase()),
        KasName::Name(name) => ("a.name = $1", name.to_lowercase()),
        KasName::Uri(uri) => ("a.uri = $1", uri.clone()),
    }
}

pub(crate) async fn find<'c>(
    executor: impl Executor<'c, Database = Any>,
    name: &KasName,
) -> Result<Kas> {
    let (condition, value) = named(name);
    let sql = format!("SELECT {KAS_COLUMNS} FROM kas a WHERE {condition}");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(value).fetch_one(executor).await?;
    Kas::from_row(&row)
}
