//! Which policy objects keys are mapped to.

use kasbah_proto::policy::KeyStatus;
use sqlx::{Row, any::AnyRow};

use crate::{
    Registry,
    db::Write,
    error::{Error, Result},
    keys,
    model::{KeyName, Listed, Page},
    sort::{Filter, Order},
};

/// What a policy object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// A namespace.
    Namespace = 1,
    /// An attribute definition.
    Definition = 2,
    /// A value of an attribute.
    Value = 3,
}

/// A policy object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyObject {
    /// UUID.
    pub id: String,
    /// Fully qualified name.
    pub fqn: String,
}

/// Policy objects, by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// Namespaces.
    pub namespaces: Vec<PolicyObject>,
    /// Attribute definitions.
    pub definitions: Vec<PolicyObject>,
    /// Values.
    pub values: Vec<PolicyObject>,
}

/// The policy objects of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Name of the key.
    pub kid: String,
    /// URI of its key access server.
    pub kas_uri: String,
    /// What is mapped to it.
    pub objects: Moved,
}

impl Moved {
    fn add(&mut self, row: &AnyRow) -> Result<()> {
        let object = PolicyObject { id: row.try_get("object_id")?, fqn: row.try_get("fqn")? };
        match row.try_get::<i64, _>("kind")? {
            1 => self.namespaces.push(object),
            2 => self.definitions.push(object),
            _ => self.values.push(object),
        }
        Ok(())
    }
}

impl Registry {
    /// Maps a policy object to a key.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such key; [`Error::Precondition`] when it is not
    /// active; [`Error::Exists`] when it is mapped.
    pub async fn map_key(
        &self,
        kind: ObjectKind,
        object: &PolicyObject,
        key: &KeyName,
    ) -> Result<()> {
        let mut write = self.db.write().await?;
        let key = keys::find(&mut *write.tx, key).await?;
        if key.status != KeyStatus::Active as i32 {
            return Err(Error::precondition(format!("key {} is not active", key.kid)));
        }
        sqlx::query(
            "INSERT INTO key_mapping (kind, object_id, fqn, key_id) VALUES ($1, $2, $3, $4)",
        )
        .bind(kind as i64)
        .bind(object.id.clone())
        .bind(object.fqn.clone())
        .bind(key.id)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await?;
        Ok(())
    }

    /// Keys that have mappings, with these.
    ///
    /// # Errors
    /// As any read; a key that is not there has no mappings.
    pub async fn list_mappings(
        &self,
        key: Option<&KeyName>,
        page: Page,
    ) -> Result<Listed<Mapping>> {
        let mut filter = Filter::default();
        if let Some(name) = key {
            match self.key(name).await {
                Ok(key) => filter.text("k.id", key.id),
                Err(Error::NotFound) => return Ok(Listed { items: Vec::new(), total: 0, page }),
                Err(error) => return Err(error),
            }
        }
        let tables = "(SELECT DISTINCT key_id FROM key_mapping) m \
                      JOIN kas_key k ON k.id = m.key_id JOIN kas a ON a.id = k.kas_id";
        let total = filter.count(self.db.pool(), tables).await?;
        let order = Order::new(&["k.created_at"], 0, 0).sql("k.id");
        let sql = format!(
            "SELECT k.id AS id, k.kid AS kid, a.uri AS uri FROM {tables}{}{order}{}",
            filter.sql(),
            page.sql()
        );
        let mut items = Vec::new();
        for row in filter.fetch(self.db.pool(), sql).await? {
            let id: String = row.try_get("id")?;
            let objects = objects_of(self.db.pool(), &id).await?;
            items.push(Mapping { kid: row.try_get("kid")?, kas_uri: row.try_get("uri")?, objects });
        }
        Ok(Listed { items, total, page })
    }
}

async fn objects_of<'c>(
    executor: impl sqlx::Executor<'c, Database = sqlx::Any>,
    key_id: &str,
) -> Result<Moved> {
    let sql = "SELECT kind, object_id, fqn FROM key_mapping WHERE key_id = $1 ORDER BY fqn, \
               object_id";
    let rows = sqlx::query(sql).bind(key_id.to_owned()).fetch_all(executor).await?;
    let mut objects = Moved::default();
    for row in &rows {
        objects.add(row)?;
    }
    Ok(objects)
}

/// Maps everything to another key; what that is.
pub(crate) async fn move_to(write: &mut Write<'_>, old: &str, new: &str) -> Result<Moved> {
    let objects = objects_of(&mut *write.tx, old).await?;
    sqlx::query("UPDATE key_mapping SET key_id = $1 WHERE key_id = $2")
        .bind(new.to_owned())
        .bind(old.to_owned())
        .execute(&mut *write.tx)
        .await?;
    Ok(objects)
}
