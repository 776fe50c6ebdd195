//! Provider configurations.

use std::path::Path;

use sqlx::{Any, AssertSqlSafe, Executor};

use crate::{
    Registry,
    error::{Error, Result},
    model::{
        LabelChange, Labels, Listed, PROVIDER_COLUMNS, Page, Provider, labels_text, new_id, now,
    },
    sort::{Filter, Order},
};

/// A provider configuration to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewProvider {
    /// In any case.
    pub name: String,
    /// See [`Provider::manager`].
    pub manager: String,
    /// See [`Provider::config_json`].
    pub config_json: Vec<u8>,
    /// Labels.
    pub labels: Labels,
}

/// What to change of a provider configuration.
#[derive(Debug, Clone, Default)]
pub struct ProviderChange {
    /// Empty to keep it.
    pub name: String,
    /// Empty to keep it.
    pub manager: String,
    /// Empty to keep it.
    pub config_json: Vec<u8>,
    /// Labels.
    pub labels: LabelChange,
}

/// How a provider configuration is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderName {
    /// By UUID.
    Id(String),
    /// By name, in any case, and manager.
    Pair {
        /// Name.
        name: String,
        /// Manager.
        manager: String,
    },
}

impl Registry {
    /// Keeps a provider configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] when its settings are no JSON, or its manager says they cannot be;
    /// [`Error::Exists`] when name and manager are taken.
    pub async fn create_provider(&self, new: NewProvider) -> Result<Provider> {
        self.check_provider(&new.name, &new.manager, &new.config_json)?;
        let mut write = self.db.write().await?;
        let provider = insert(&mut write, new, None).await?;
        write.commit().await?;
        Ok(provider)
    }

    /// The provider configuration of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn provider(&self, name: &ProviderName) -> Result<Provider> {
        find(self.db.pool(), name).await
    }

    /// Provider configurations, newest first.
    ///
    /// # Errors
    /// As any read.
    pub async fn list_providers(&self, page: Page) -> Result<Listed<Provider>> {
        let filter = Filter::default();
        let total = filter.count(self.db.pool(), "provider p").await?;
        let order = Order::new(&["p.created_at"], 0, 0).sql("p.id");
        let sql = format!("SELECT {PROVIDER_COLUMNS} FROM provider p{order}{}", page.sql());
        let rows = filter.fetch(self.db.pool(), sql).await?;
        let items = rows.iter().map(Provider::from_row).collect::<Result<_>>()?;
        Ok(Listed { items, total, page })
    }

    /// All provider configurations, for those who go through them.
    ///
    /// # Errors
    /// As any read.
    pub async fn all_providers(&self) -> Result<Vec<Provider>> {
        let sql = format!("SELECT {PROVIDER_COLUMNS} FROM provider p ORDER BY p.name, p.manager");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(self.db.pool()).await?;
        rows.iter().map(Provider::from_row).collect()
    }

    /// Changes a provider configuration.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] when a file declares it; [`Error::Settings`] when
    /// its manager says that the settings, which stay, do not go with the new name or manager;
    /// otherwise as [`Registry::create_provider`].
    pub async fn update_provider(
        &self,
        id: &str,
        change: ProviderChange,
    ) -> Result<(Provider, Provider)> {
        let mut write = self.db.write().await?;
        let before = find(&mut *write.tx, &ProviderName::Id(id.to_owned())).await?;
        refuse_declared(&before)?;
        let mut after = before.clone();
        if !change.name.is_empty() {
            after.name = change.name.to_lowercase();
        }
        if !change.manager.is_empty() {
            after.manager = change.manager;
        }
        let is_kept = change.config_json.is_empty();
        if !is_kept {
            after.config_json = change.config_json;
        }
        change.labels.apply(&mut after.labels);
        let checked = self.check_provider(&after.name, &after.manager, &after.config_json);
        checked.map_err(|error| match error {
            Error::Invalid(text) if is_kept => Error::Settings(text),
            other => other,
        })?;
        store(&mut write, &mut after).await?;
        write.commit().await?;
        Ok((before, after))
    }

    /// Forgets a provider configuration.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Relation`] while keys refer to it; [`Error::Precondition`]
    /// when a file declares it.
    pub async fn delete_provider(&self, id: &str) -> Result<Provider> {
        let mut write = self.db.write().await?;
        let provider = find(&mut *write.tx, &ProviderName::Id(id.to_owned())).await?;
        refuse_declared(&provider)?;
        sqlx::query("DELETE FROM provider WHERE id = $1")
            .bind(&provider.id)
            .execute(&mut *write.tx)
            .await?;
        write.commit().await?;
        Ok(provider)
    }

    /// Makes the provider configurations be as files declare them; each comes with its file. One
    /// that a file of `sources` (files and directories) declared earlier and no longer does stays,
    /// as keys may refer to it, and can be changed by calls again. Other nodes have other files.
    ///
    /// # Errors
    /// As [`Registry::create_provider`]; then none of them is changed.
    pub async fn declare_providers(
        &self,
        declared: &[(NewProvider, String)],
        sources: &[String],
    ) -> Result<()> {
        for (new, file) in declared {
            let checked = self.check_provider(&new.name, &new.manager, &new.config_json);
            checked.map_err(|error| Error::invalid(format!("{file}: {}: {error}", new.name)))?;
        }
        if self.are_declared(declared, sources).await? {
            return Ok(());
        }
        let mut write = self.db.write().await?;
        for provider in self.all_providers().await? {
            if is_of(&provider, sources) {
                mark(&mut write, &Provider { file: None, ..provider }).await?;
            }
        }
        for (new, file) in declared {
            let name = pair(new);
            match find(&mut *write.tx, &name).await {
                Ok(mut known) => {
                    let same = known.config_json == new.config_json && known.labels == new.labels;
                    known.config_json.clone_from(&new.config_json);
                    known.labels.clone_from(&new.labels);
                    known.file = Some(file.clone());
                    if same {
                        mark(&mut write, &known).await?;
                    } else {
                        store(&mut write, &mut known).await?;
                    }
                }
                Err(Error::NotFound) => {
                    insert(&mut write, new.clone(), Some(file.clone())).await?;
                }
                Err(error) => return Err(error),
            }
        }
        write.commit().await?;
        Ok(())
    }

    async fn are_declared(
        &self,
        declared: &[(NewProvider, String)],
        sources: &[String],
    ) -> Result<bool> {
        let known = self.all_providers().await?;
        let with_file = known.iter().filter(|provider| is_of(provider, sources)).count();
        let same = |(new, file): &(NewProvider, String)| {
            known.iter().any(|known| {
                known.name == new.name.to_lowercase()
                    && known.manager == new.manager
                    && known.config_json == new.config_json
                    && known.labels == new.labels
                    && known.file.as_ref() == Some(file)
            })
        };
        Ok(with_file == declared.len() && declared.iter().all(same))
    }

    fn check_provider(&self, name: &str, manager: &str, config_json: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(config_json)
            .map_err(|_| Error::invalid("config_json is not UTF-8"))?;
        if text.contains("\\u0000") {
            return Err(Error::invalid("config_json contains \\u0000"));
        }
        let _: serde::de::IgnoredAny = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("config_json is not valid JSON: {error}")))?;
        self.settings.check(&name.to_lowercase(), manager, text).map_err(Error::Invalid)
    }
}

fn pair(new: &NewProvider) -> ProviderName {
    ProviderName::Pair { name: new.name.clone(), manager: new.manager.clone() }
}

/// Whether one of these files, or a file in one of these directories, declares it.
fn is_of(provider: &Provider, sources: &[String]) -> bool {
    provider.file.as_ref().is_some_and(|file| {
        sources.iter().any(|source| file == source || Path::new(file).starts_with(source))
    })
}

fn refuse_declared(provider: &Provider) -> Result<()> {
    match &provider.file {
        Some(file) => Err(Error::precondition(format!(
            "provider configuration {} is declared in {file}; change it there and reload",
            provider.name
        ))),
        None => Ok(()),
    }
}

pub(crate) async fn find<'c>(
    executor: impl Executor<'c, Database = Any>,
    name: &ProviderName,
) -> Result<Provider> {
    let (condition, values) = match name {
        ProviderName::Id(id) => ("p.id = $1", vec![id.to_lowercase()]),
        ProviderName::Pair { name, manager } => {
            ("p.name = $1 AND p.manager = $2", vec![name.to_lowercase(), manager.clone()])
        }
    };
    let sql = format!("SELECT {PROVIDER_COLUMNS} FROM provider p WHERE {condition}");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in values {
        query = query.bind(value);
    }
    Provider::from_row(&query.fetch_one(executor).await?)
}

async fn insert(
    write: &mut crate::db::Write<'_>,
    new: NewProvider,
    file: Option<String>,
) -> Result<Provider> {
    let now = now();
    let provider = Provider {
        id: new_id(),
        name: new.name.to_lowercase(),
        manager: new.manager,
        config_json: new.config_json,
        labels: new.labels,
        file,
        version: write.revision.unsigned_abs(),
        created_at: now,
        updated_at: now,
    };
    sqlx::query(
        "INSERT INTO provider (id, name, manager, config_json, labels, file, version, created_at, \
         updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&provider.id)
    .bind(&provider.name)
    .bind(&provider.manager)
    .bind(&provider.config_json)
    .bind(labels_text(&provider.labels))
    .bind(&provider.file)
    .bind(write.revision)
    .bind(provider.created_at)
    .bind(provider.updated_at)
    .execute(&mut *write.tx)
    .await?;
    Ok(provider)
}

/// Writes what changed, as a new version.
async fn store(write: &mut crate::db::Write<'_>, provider: &mut Provider) -> Result<()> {
    provider.updated_at = now();
    provider.version = write.revision.unsigned_abs();
    sqlx::query(
        "UPDATE provider SET name = $1, manager = $2, config_json = $3, labels = $4, file = $5, \
         version = $6, updated_at = $7 WHERE id = $8",
    )
    .bind(&provider.name)
    .bind(&provider.manager)
    .bind(&provider.config_json)
    .bind(labels_text(&provider.labels))
    .bind(&provider.file)
    .bind(write.revision)
    .bind(provider.updated_at)
    .bind(&provider.id)
    .execute(&mut *write.tx)
    .await?;
    Ok(())
}

/// Writes which file declares it; that is no new version.
async fn mark(write: &mut crate::db::Write<'_>, provider: &Provider) -> Result<()> {
    sqlx::query("UPDATE provider SET file = $1 WHERE id = $2")
        .bind(&provider.file)
        .bind(&provider.id)
        .execute(&mut *write.tx)
        .await?;
    Ok(())
}
