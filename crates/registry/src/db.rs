//! The database: one file of SQLite, or PostgreSQL.
//!
//! Both speak the same statements here; what differs is in this file. Every write begins by taking
//! the one row of `registry_state`, so writers go one after the other on both, and nothing that was
//! read in a write can change before it ends. Writes are rare; reads take no lock.

use std::{
    fmt, fs::OpenOptions, io::ErrorKind, os::unix::fs::OpenOptionsExt, path::Path, str::FromStr,
    sync::Once, time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Any, AnyPool, AssertSqlSafe, Connection, Executor, SqlSafeStr, Transaction,
    any::{AnyConnectOptions, AnyPoolOptions},
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
    postgres::PgListener,
};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Channel of PostgreSQL's LISTEN and NOTIFY.
const CHANNEL: &str = "kasbah_registry";
/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a lost listener waits before it connects again.
const LISTEN_BACK_OFF: Duration = Duration::from_millis(500);

/// Migrations: version, name, statements with `BYTES` for the type that the databases name
/// differently.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "initial", include_str!("../migrations/0001_initial.sql")),
    (2, "replay", include_str!("../migrations/0002_replay.sql")),
    (3, "entitlements", include_str!("../migrations/0003_entitlements.sql")),
];

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One file.
    Sqlite,
    /// A server that many nodes share.
    Postgres,
}

/// A pool of connections.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
    kind: Kind,
    /// May hold a password.
    url: SecretString,
    /// The revision that was last written or heard of here.
    changes: watch::Sender<u64>,
}

/// A migration and whether it has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Its number; they are applied in this order.
    pub version: i64,
    /// What it is about.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// A write under way; dropped without [`Write::commit`], it never happened.
pub(crate) struct Write<'a> {
    pub(crate) tx: Transaction<'static, Any>,
    /// Revision that the database has once this is committed.
    pub(crate) revision: i64,
    database: &'a Database,
}

impl Database {
    /// Connects to `url`: `sqlite:PATH` or `postgres://USER@HOST:PORT/NAME`. A file of SQLite is
    /// made if there is none. Does not migrate.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a URL of another form; [`Error::Unavailable`] when there is no
    /// connection.
    pub async fn open(url: &str) -> Result<Self> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (kind, address) = parse(url)?;
        if kind == Kind::Sqlite {
            make_private(url)?;
        }
        let options = AnyConnectOptions::from_str(&address)
            .map_err(|_| Error::invalid("the database URL cannot be read"))?;
        let pool = AnyPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if kind == Kind::Sqlite {
                        connection.execute(SQLITE_SETTINGS).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool, kind, url: address.into(), changes: watch::Sender::new(0) })
    }

    /// Which database it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Connections, for the statements of this crate.
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Revisions as they are written or heard of here.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Applies what is missing of the schema; each migration entirely or not at all.
    ///
    /// # Errors
    /// [`Error::Schema`] when a migration fails, or the database was made by a newer version.
    pub async fn migrate(&self) -> Result<()> {
        self.apply(self.migrations()).await
    }

    async fn apply(&self, migrations: Vec<Migration>) -> Result<()> {
        let migrator = Migrator::with_migrations(migrations);
        // A migration that fails leaves its lock with the connection, which is not to be used again.
        let mut connection = self.pool.acquire().await?.detach();
        let migrated = migrator.run(&mut connection).await;
        connection.close().await?;
        migrated.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Error::Schema(format!("a migration failed and was undone: {error}"))
            }
            MigrateError::VersionMissing(version) => Error::Schema(format!(
                "the database has migration {version}, which this version of kasbah does not know; \
                 use the version that made it, or a newer one"
            )),
            MigrateError::VersionMismatch(version) => {
                Error::Schema(format!("migration {version} is not the one that made this database"))
            }
            other => Error::Schema(other.to_string()),
        })
    }

    fn migrations(&self) -> Vec<Migration> {
        let bytes = if self.kind == Kind::Sqlite { " BLOB " } else { " BYTEA " };
        MIGRATIONS
            .iter()
            .map(|(version, name, sql)| migration(*version, name, sql.replace(" BYTES ", bytes)))
            .collect()
    }

    /// Which migrations there are and which have been applied.
    ///
    /// # Errors
    /// As any read.
    pub async fn migration_status(&self) -> Result<Vec<MigrationStatus>> {
        const TABLE: &str = "_sqlx_migrations";
        let mut connection: PoolConnection<Any> = self.pool.acquire().await?;
        connection.ensure_migrations_table(TABLE).await.map_err(Error::internal)?;
        let applied = connection.list_applied_migrations(TABLE).await.map_err(Error::internal)?;
        let is_applied = |version| applied.iter().any(|migration| migration.version == version);
        Ok(MIGRATIONS
            .iter()
            .map(|(version, name, _)| MigrationStatus {
                version: *version,
                name: (*name).to_owned(),
                applied: is_applied(*version),
            })
            .collect())
    }

    /// The revision of the last change.
    ///
    /// # Errors
    /// As any read.
    pub async fn revision(&self) -> Result<u64> {
        let revision: i64 =
            sqlx::query_scalar("SELECT revision FROM registry_state").fetch_one(&self.pool).await?;
        Ok(revision.unsigned_abs())
    }

    /// Begins a write; waits for the one before it to end.
    pub(crate) async fn write(&self) -> Result<Write<'_>> {
        let mut tx = self.pool.begin().await?;
        let revision = sqlx::query_scalar(
            "UPDATE registry_state SET revision = revision + 1 RETURNING revision",
        )
        .fetch_one(&mut *tx)
        .await?;
        Ok(Write { tx, revision, database: self })
    }

    /// Tells [`Database::changes`] what other nodes write; runs until dropped. Without PostgreSQL
    /// there are no other nodes, and it waits for ever.
    pub async fn listen(&self) {
        if self.kind == Kind::Sqlite {
            return std::future::pending().await;
        }
        loop {
            if let Err(error) = self.listen_once().await {
                tracing::debug!(%error, "not listening for changes; polling goes on");
            }
            tokio::time::sleep(LISTEN_BACK_OFF).await;
        }
    }

    async fn listen_once(&self) -> Result<()> {
        let mut listener = PgListener::connect(self.url.expose_secret()).await?;
        listener.listen(CHANNEL).await?;
        loop {
            let notification = listener.recv().await?;
            if let Ok(revision) = notification.payload().parse() {
                self.changes.send_replace(revision);
            }
        }
    }

    /// Writes a consistent copy of a SQLite database to `path`, which must not exist, while it is
    /// in use.
    ///
    /// # Errors
    /// [`Error::Invalid`] for PostgreSQL, which has `pg_dump`.
    pub async fn copy_to(&self, path: &Path) -> Result<()> {
        if self.kind == Kind::Postgres {
            return Err(Error::invalid("use pg_dump to copy a PostgreSQL database"));
        }
        let path = path.to_str().ok_or_else(|| Error::invalid("the path is not UTF-8"))?;
        sqlx::query("VACUUM INTO $1").bind(path).execute(&self.pool).await?;
        Ok(())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Write<'_> {
    /// Makes it durable and tells everybody.
    pub(crate) async fn commit(mut self) -> Result<u64> {
        if self.database.kind == Kind::Postgres {
            sqlx::query("SELECT pg_notify('kasbah_registry', $1)")
                .bind(self.revision.to_string())
                .execute(&mut *self.tx)
                .await?;
        }
        self.tx.commit().await?;
        let revision = self.revision.unsigned_abs();
        self.database.changes.send_replace(revision);
        Ok(revision)
    }
}

/// A commit is on the disk before it is acknowledged; readers do not wait for the writer.
const SQLITE_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                               PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;";

fn parse(url: &str) -> Result<(Kind, String)> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok((Kind::Postgres, url.to_owned()));
    }
    match url.strip_prefix("sqlite:").map(|rest| rest.trim_start_matches("//")) {
        Some(path) if !path.is_empty() => {
            let path = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
            Ok((Kind::Sqlite, format!("sqlite:{path}?mode=rwc")))
        }
        _ => Err(Error::invalid(
            "expected `sqlite:PATH` or `postgres://USER@HOST:PORT/NAME` as the database URL",
        )),
    }
}

/// Makes the file if there is none, for its owner only: it holds wrapped private keys.
fn make_private(url: &str) -> Result<()> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::Unavailable {
            what: "the registry's database file cannot be made",
            source: error.into(),
        }),
        _ => Ok(()),
    }
}

/// `sql` is ours.
fn migration(version: i64, name: &'static str, sql: String) -> Migration {
    let sql = AssertSqlSafe(sql).into_sql_str();
    Migration::new(version, name.into(), MigrationType::Simple, sql, false)
}

#[cfg(test)]
mod tests {
    use kasbah_testkit::postgres::Postgres;

    use super::*;

    impl Database {
        /// Applies `sql` as a migration after all others.
        async fn migrate_with(&self, sql: &str) -> Result<()> {
            let mut migrations = self.migrations();
            let version = migrations.last().map_or(1, |last| last.version + 1);
            migrations.push(migration(version, "extra", sql.to_owned()));
            self.apply(migrations).await
        }
    }

    async fn a_migration_that_fails_is_undone(url: &str) {
        let database = Database::open(url).await.unwrap();
        database.migrate().await.unwrap();
        let before = database.revision().await.unwrap();
        let broken = "CREATE TABLE extra (id TEXT); INSERT INTO nowhere VALUES (1);";
        let error = database.migrate_with(broken).await.unwrap_err();
        assert!(matches!(&error, Error::Schema(text) if text.contains("was undone")), "{error}");
        // The old schema works, and is not locked.
        assert!(database.migration_status().await.unwrap().iter().all(|known| known.applied));
        let write = database.write().await.unwrap();
        assert_eq!(write.commit().await.unwrap(), before + 1);
        database.migrate().await.unwrap();
        // What failed can be mended and applied; then an older version sees that it is older.
        database.migrate_with("CREATE TABLE extra (id TEXT);").await.unwrap();
        let error = database.migrate().await.unwrap_err();
        assert!(error.to_string().contains("does not know"), "{error}");
    }

    #[tokio::test]
    async fn a_migration_that_fails_on_sqlite_is_undone() {
        let dir = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", dir.path().join("registry.db").display());
        a_migration_that_fails_is_undone(&url).await;
    }

    #[tokio::test]
    async fn a_migration_that_fails_on_postgres_is_undone() {
        a_migration_that_fails_is_undone(&Postgres::start().url()).await;
    }
}
