//! `kasbah config check`

use serde::Serialize;

use crate::{
    arguments::ConfigFile,
    config::{Config, ConfigError, Problem},
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
    /// Reads the files it names except secrets; opens no token and runs no command. Exits with 1
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
    Plan::tool(async move { check(&config, output) })
}

fn check(config: &ConfigFile, output: Output) -> Result<(), Failure> {
    let (problems, warnings) = match Config::load(&config.file) {
        Ok(config) => (Vec::new(), config.warnings),
        Err(ConfigError::Wrong { problems, warnings, .. }) => (problems, warnings),
        Err(error @ ConfigError::Unreadable { .. }) => {
            return Err(Failure::new(Exit::Usage, error));
        }
    };
    let report = Report { ok: problems.is_empty(), problems, warnings };
    output.print(&report, table)?;
    if report.ok { Ok(()) } else { Err(Failure::reported(Exit::NotFine)) }
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
