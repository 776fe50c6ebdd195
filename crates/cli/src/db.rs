//! `kasbah db`

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use kasbah_registry::{Database, Kind};
use kasbah_trust::{Deadline, KeyFilter, KeyMode, KeyStatus};
use serde::Serialize;

use crate::{
    arguments::ConfigFile,
    config::{Config, KeyIndex, RegistrySettings},
    control_plane,
    environment::Environment,
    exit::{Exit, Failure, OrExit, sentence},
    output::{Output, columns},
    plan::Plan,
    server,
};

const NOT_MIGRATED: &str = "the schema is not up to date; run `kasbah db migrate`";
/// How long one key may take to answer after a restore.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Look after the database of a registry
///
/// For PostgreSQL, back up with `pg_dump --format=custom` and restore with `pg_restore`; then
/// `kasbah db check` says whether every key still answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Bring the schema up to date, as `kasbah serve` does when it starts
    Migrate(ConfigFile),
    /// Show which migrations the database has; exits with 1 when some are missing
    Status(ConfigFile),
    /// Copy a SQLite database to a file while it is in use
    Backup {
        #[command(flatten)]
        config: ConfigFile,
        /// The file to make
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Put a copy in the place of a SQLite database, once every key in it has answered
    ///
    /// Stop the server first. What is there now is kept beside it, as `FILE.before-restore`.
    Restore {
        #[command(flatten)]
        config: ConfigFile,
        /// The copy
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Restore even if some keys do not answer
        #[arg(long)]
        anyway: bool,
    },
    /// Use every registered key of this node once; exits with 1 when one does not answer
    Check(ConfigFile),
}

impl Command {
    fn config(&self) -> &ConfigFile {
        match self {
            Self::Migrate(config)
            | Self::Status(config)
            | Self::Check(config)
            | Self::Backup { config, .. }
            | Self::Restore { config, .. } => config,
        }
    }
}

/// What a key answered.
#[derive(Serialize)]
struct Answer {
    kid: String,
    ok: bool,
    /// `answers`, or what keeps it from that.
    state: String,
}

/// Plans the work on the database.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Result<Plan, Failure> {
    let command = arguments.command;
    let mut config = Config::load(&command.config().file).or_exit(Exit::Usage)?;
    let environment: Environment = std::mem::take(&mut config.environment);
    let KeyIndex::Registry(settings) = &config.index else {
        return Err(Failure::usage("kas.key_index is not `registry`, so there is no database"));
    };
    let settings = settings.clone();
    let task = async move { Box::pin(run(command, config, settings, output)).await };
    Ok(Plan::tool(task).with_environment(environment))
}

async fn run(
    command: Command,
    config: Config,
    settings: RegistrySettings,
    output: Output,
) -> Result<(), Failure> {
    match command {
        Command::Migrate(_) => {
            let database = control_plane::open(&settings).await?;
            database.migrate().await.context("registry.database").or_exit(Exit::Unavailable)?;
            status(&database, output).await
        }
        Command::Status(_) => status(&control_plane::open(&settings).await?, output).await,
        Command::Backup { to, .. } => backup(&settings, &to, output).await,
        Command::Restore { from, anyway, .. } => {
            Box::pin(restore(config, &settings, &from, anyway, output)).await
        }
        Command::Check(_) => {
            let database = control_plane::open(&settings).await?;
            let status = database.migration_status().await.or_exit(Exit::Unavailable)?;
            if !status.iter().all(|migration| migration.applied) {
                return Err(Failure::not_fine(NOT_MIGRATED));
            }
            let answers = check(config).await?;
            show(&answers, output)
        }
    }
}

async fn status(database: &Database, output: Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Row {
        version: i64,
        name: String,
        applied: bool,
    }
    let all = database.migration_status().await.or_exit(Exit::Unavailable)?;
    let rows: Vec<_> = all
        .into_iter()
        .map(|m| Row { version: m.version, name: m.name, applied: m.applied })
        .collect();
    output.print(&rows, |rows| {
        let cells: Vec<_> = rows
            .iter()
            .map(|row| {
                let applied = if row.applied { "yes" } else { "no" };
                [row.version.to_string(), row.name.clone(), applied.to_owned()]
            })
            .collect();
        columns(["VERSION", "NAME", "APPLIED"], &cells)
    })?;
    if rows.iter().all(|row| row.applied) { Ok(()) } else { Err(Failure::not_fine(NOT_MIGRATED)) }
}

async fn backup(settings: &RegistrySettings, to: &Path, output: Output) -> Result<(), Failure> {
    if to.exists() {
        return Err(Failure::usage(format!("--to: {} exists; name a new file", to.display())));
    }
    let database = control_plane::open(settings).await?;
    if database.kind() == Kind::Postgres {
        return Err(Failure::usage(
            "this is a PostgreSQL database: back it up with `pg_dump --format=custom`",
        ));
    }
    database.copy_to(to).await.context("--to").or_exit(Exit::Unavailable)?;
    let report = serde_json::json!({ "file": to });
    output.print(&report, |_| format!("copied to {}", to.display()))
}

async fn restore(
    mut config: Config,
    settings: &RegistrySettings,
    from: &Path,
    anyway: bool,
    output: Output,
) -> Result<(), Failure> {
    let Some(target) = settings.database.strip_prefix("sqlite:").map(PathBuf::from) else {
        return Err(Failure::usage(
            "this is a PostgreSQL database: restore it with `pg_restore`, then run \
             `kasbah db check`",
        ));
    };
    if !from.is_file() {
        return Err(Failure::usage(format!("--from: {} is no file", from.display())));
    }
    // The copy is tried where it will lie, under another name.
    let trial = beside(&target, "restoring");
    remove(&trial)?;
    fs::copy(from, &trial)
        .with_context(|| format!("--from: cannot copy {}", from.display()))
        .or_exit(Exit::Unavailable)?;
    let database = format!("sqlite:{}", trial.display());
    let trial_settings = RegistrySettings { database, ..settings.clone() };
    let opened = control_plane::open(&trial_settings).await?;
    opened.migrate().await.context("--from").or_exit(Exit::Usage)?;
    opened.close().await;
    config.index = KeyIndex::Registry(trial_settings);
    let answers = check(config).await.inspect_err(|_| {
        let _ = remove(&trial);
    })?;
    if !anyway && answers.iter().any(|answer| !answer.ok) {
        remove(&trial)?;
        return show(&answers, output);
    }
    if target.exists() {
        let kept = beside(&target, "before-restore");
        remove(&kept)?;
        rename(&target, &kept)?;
        for suffix in ["-wal", "-shm"] {
            let journal = with_suffix(&target, suffix);
            if journal.exists() {
                rename(&journal, &with_suffix(&kept, suffix))?;
            }
        }
    }
    rename(&trial, &target)?;
    remove(&trial)?;
    show(&answers, output).or_else(|failure| if anyway { Ok(()) } else { Err(failure) })
}

/// Uses every key that this node serves once.
async fn check(config: Config) -> Result<Vec<Answer>, Failure> {
    let server = server::look(config).await?;
    let keys = server.key_service();
    let listed = keys.index().list(KeyFilter::default(), Deadline::after(PROBE_TIMEOUT)).await;
    let mut answers = Vec::new();
    for key in listed.or_exit(Exit::Unavailable)? {
        if key.mode == KeyMode::PublicKeyOnly {
            continue;
        }
        let (ok, state) = match key.status {
            KeyStatus::Disabled => (true, "is disabled".to_owned()),
            KeyStatus::Compromised => (true, "is marked as compromised".to_owned()),
            KeyStatus::Active | KeyStatus::Rotated => {
                match keys.prove(&key, Deadline::after(PROBE_TIMEOUT)).await {
                    Ok(_) => (true, "answers".to_owned()),
                    Err(error) => (false, sentence(&anyhow!(error))),
                }
            }
        };
        answers.push(Answer { kid: key.kid.to_string(), ok, state });
    }
    server.close().await;
    Ok(answers)
}

fn show(answers: &[Answer], output: Output) -> Result<(), Failure> {
    output.print(&answers, |answers| {
        let cells: Vec<_> =
            answers.iter().map(|answer| [answer.kid.clone(), answer.state.clone()]).collect();
        columns(["KID", "STATE"], &cells)
    })?;
    match answers.iter().filter(|answer| !answer.ok).count() {
        0 => Ok(()),
        silent => Err(Failure::not_fine(format!("keys that do not answer: {silent}"))),
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    with_suffix(file, &format!(".{suffix}"))
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A database file with its journals.
fn remove(file: &Path) -> Result<(), Failure> {
    for suffix in ["", "-wal", "-shm"] {
        let file = with_suffix(file, suffix);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let context = format!("cannot remove {}", file.display());
                return Err(Failure::new(Exit::Unavailable, anyhow!(error).context(context)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
        .or_exit(Exit::Unavailable)
}
