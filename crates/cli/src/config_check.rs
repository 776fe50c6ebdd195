//! `kasbah config check`

use std::path::Path;

use serde::Serialize;

use crate::{
    arguments::ConfigFile,
    config::{Config, ConfigError, KeyIndex, MANAGERS, Problem, names},
    control_plane,
    exit::{Exit, Failure},
    output::Output,
    plan::Plan,
};

/// Look at a configuration without using it
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Report everything that is wrong with a configuration, and what is worth a look
    ///
    /// Reads the files it names, the database of the registry, and no secrets but that database's
    /// password; opens no token. Exits with 1
    /// when there are problems, with 2 when the file is no configuration at all.
    Check(ConfigFile),
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Plans the check.
pub(crate) fn plan(arguments: Arguments, output: Output) -> Plan {
    let Command::Check(config) = arguments.command;
    Plan::tool(async move { check(&config, output).await })
}

async fn check(config: &ConfigFile, output: Output) -> Result<(), Failure> {
    let (problems, warnings) = match Config::load(&config.file) {
        Ok(mut config) => {
            let mut warnings = std::mem::take(&mut config.warnings);
            warnings.extend(unregistered(&config).await);
            (Vec::new(), warnings)
        }
        Err(ConfigError::Wrong { problems, warnings, .. }) => (problems, warnings),
        Err(error @ ConfigError::Unreadable { .. }) => {
            return Err(Failure::new(Exit::Usage, error));
        }
    };
    let report = Report { ok: problems.is_empty(), problems, warnings };
    output.print(&report, table)?;
    if report.ok { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
}

/// Provider configurations of the registry whose manager nobody registered.
async fn unregistered(config: &Config) -> Vec<Problem> {
    let KeyIndex::Registry(settings) = &config.index else { return Vec::new() };
    // Opening a file that is not there would make it.
    let file = settings.database.strip_prefix("sqlite:");
    if file.is_some_and(|file| !Path::new(file).exists()) {
        return Vec::new();
    }
    let warning = |message| Problem { path: "registry".to_owned(), message };
    let providers = match control_plane::open_registry(config, settings).await {
        Ok(registry) => match registry.database().migration_status().await {
            // A database that no server has used yet.
            Ok(status) if !status.iter().all(|migration| migration.applied) => return Vec::new(),
            Ok(_) => registry.all_providers().await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        Err(failure) => Err(failure.sentence()),
    };
    match providers {
        Ok(providers) => providers
            .iter()
            .filter(|provider| !MANAGERS.contains(&&*provider.manager))
            .map(|provider| {
                warning(format!(
                    "provider configuration `{}` names manager `{}`, which is not registered; \
                     this build has {}",
                    provider.name,
                    provider.manager,
                    names(MANAGERS)
                ))
            })
            .collect(),
        Err(why) => {
            vec![warning(format!("its provider configurations could not be looked at: {why}"))]
        }
    }
}

fn table(report: &Report) -> String {
    let lines = |kind, findings: &[Problem]| -> Vec<_> {
        findings.iter().map(|finding| format!("{kind}: {finding}")).collect()
    };
    let verdict = match (report.problems.len(), report.warnings.len()) {
        (0, 0) => "the configuration is fine".to_owned(),
        (0, warnings) => format!("the configuration can be used; warnings: {warnings}"),
        (problems, _) => format!("the configuration cannot be used; problems: {problems}"),
    };
    let problems = lines("problem", &report.problems);
    let warnings = lines("warning", &report.warnings);
    [problems, warnings, vec![verdict]].concat().join("\n")
}
