//! The log, on standard error.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Starts logging at `level`, or as `RUST_LOG` says.
pub(crate) fn start(level: Level) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.to_string()));
    // The PKCS#11 binding logs the arguments of calls, so no setting may turn it on.
    let filter = "cryptoki=off".parse().map_or(filter.clone(), |off| filter.add_directive(off));
    let is_terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_terminal)
        .init();
}
