//! `kasbah serve`

use std::path::PathBuf;

use tokio::net::TcpListener;

use crate::{
    arguments::{ConfigFile, LogArguments},
    config::Config,
    exit::{Exit, Failure, OrExit},
    plan::Plan,
    server,
    telemetry::Wanted,
};

/// Serve rewraps until told to stop (SIGTERM, SIGINT)
///
/// Before it listens it opens the token of every provider in the configuration and uses every key of
/// the keyring once: what is declared there must work, unless its provider says `required: false`.
/// A key of a registry or platform is used once before it is handed out.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// File, or directory of `*.cfg` files, that declares provider configurations in the registry;
    /// read again on SIGHUP
    #[arg(long = "provider-config", value_name = "PATH")]
    provider_config: Option<PathBuf>,
    #[command(flatten)]
    log: LogArguments,
}

/// Plans the server.
pub(crate) fn plan(arguments: &Arguments) -> Result<Plan, Failure> {
    let mut config = Config::load(&arguments.config.file).or_exit(Exit::Usage)?;
    let declared = arguments.provider_config.clone();
    let environment = std::mem::take(&mut config.environment);
    let telemetry = Wanted::take(&mut config);
    Ok(Plan::server(arguments.log.format, serve(config, declared))
        .with_environment(environment)
        .with_telemetry(telemetry))
}

async fn serve(config: Config, declared: Option<PathBuf>) -> Result<(), Failure> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let listen = config.server.listen;
    let server = server::build(config, declared.as_deref()).await?;
    let listener = TcpListener::from_std(server::listen(listen)?).or_exit(Exit::Unavailable)?;
    server.serve(listener).await
}
