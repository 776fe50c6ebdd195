//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    audit, bench, config_check,
    control::{entitlements, kas, keys, providers},
    db, dev, healthcheck, hsm,
    log::Format,
    output::Output,
    serve, smoke,
};

/// A Key Access Server for OpenTDF whose keys live in PKCS#11 hardware, and its tools.
///
/// Exit codes: 0 done; 1 the thing asked about is not fine; 2 wrong usage or configuration;
/// 3 a dependency (server, token, network) is unavailable.
#[derive(Debug, Parser)]
#[command(name = "kasbah", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// How to print results
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Audit(audit::Arguments),
    Bench(bench::Arguments),
    Config(config_check::Arguments),
    Db(db::Arguments),
    Dev(dev::Arguments),
    Entitlements(entitlements::Arguments),
    Healthcheck(healthcheck::Arguments),
    Hsm(hsm::Arguments),
    Kas(kas::Arguments),
    Keys(keys::Arguments),
    Providers(providers::Arguments),
    Serve(serve::Arguments),
    Smoke(smoke::Arguments),
}

/// Which configuration to read.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// Configuration file (YAML); `KASBAH__KAS__URI` in the environment overrides `kas.uri` in it,
    /// and so on, with two underscores between levels
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// How a server logs.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArguments {
    /// How lines of the log look, on standard error; `RUST_LOG` says what is logged, `info` by
    /// default. Audit events, beside them, are always JSON
    #[arg(long = "log-format", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) format: Format,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
