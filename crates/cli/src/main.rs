//! The `kasbah` command: a Key Access Server and its operator's tools.
//!
//! Every subcommand has a file of its own that turns its arguments into a [`Plan`]: first, while
//! this is the only thread, it says what must be in the environment; then it runs.

mod arguments;
mod audit;
mod audit_log;
mod bench;
mod client;
mod clients;
mod config;
mod config_check;
mod control;
mod control_plane;
mod db;
mod decider;
mod dev;
mod environment;
mod exit;
mod gate;
mod health;
mod healthcheck;
mod hsm;
mod keyring;
mod log;
mod output;
mod plan;
mod serve;
mod server;
mod smoke;
mod tdf;
mod telemetry;
mod throw_away;
mod tokens;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    arguments::{Arguments, Command},
    control::{entitlements, kas, keys, providers},
    exit::{Exit, Failure, OrExit},
    plan::Plan,
    telemetry::Wanted,
};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Plan { environment, log, telemetry, task } = plan(arguments)?;
    environment.apply();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .or_exit(Exit::Unavailable)?;
    let telemetry = {
        let _entered = runtime.enter();
        telemetry.map(Wanted::start).transpose()?
    };
    log.start(telemetry.as_ref());
    let outcome = runtime.block_on(task);
    if let Some(telemetry) = telemetry {
        telemetry::close(telemetry);
    }
    outcome
}

fn plan(arguments: Arguments) -> Result<Plan, Failure> {
    let output = arguments.output;
    match arguments.command {
        Command::Audit(arguments) => Ok(audit::plan(arguments, output)),
        Command::Bench(arguments) => bench::plan(&arguments, output),
        Command::Config(arguments) => Ok(config_check::plan(arguments, output)),
        Command::Db(arguments) => db::plan(arguments, output),
        Command::Dev(arguments) => dev::plan(arguments, output),
        Command::Entitlements(arguments) => Ok(entitlements::plan(arguments, output)),
        Command::Healthcheck(arguments) => Ok(healthcheck::plan(arguments, output)),
        Command::Hsm(arguments) => hsm::plan(arguments, output),
        Command::Kas(arguments) => Ok(kas::plan(arguments, output)),
        Command::Keys(arguments) => Ok(keys::plan(arguments, output)),
        Command::Providers(arguments) => Ok(providers::plan(arguments, output)),
        Command::Serve(arguments) => serve::plan(&arguments),
        Command::Smoke(arguments) => Ok(smoke::plan(arguments, output)),
    }
}
