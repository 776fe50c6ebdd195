//! What a subcommand is going to do.

use std::pin::Pin;

use tracing::Level;

use crate::{
    environment::Environment,
    exit::Failure,
    log::{Format, Log},
    telemetry::Wanted,
};

/// What a subcommand is going to do, decided while this is the only thread.
pub(crate) struct Plan {
    /// Set before anything else happens.
    pub(crate) environment: Environment,
    /// What is logged.
    pub(crate) log: Log,
    /// What is told besides, and to whom.
    pub(crate) telemetry: Option<Wanted>,
    /// The work itself.
    pub(crate) task: Pin<Box<dyn Future<Output = Result<(), Failure>>>>,
}

impl Plan {
    /// A plan for a tool: its result is its output, so only warnings are logged.
    pub(crate) fn tool(task: impl Future<Output = Result<(), Failure>> + 'static) -> Self {
        Self::new(Level::WARN, Format::Text, task)
    }

    /// A plan for a server, which tells what it does.
    pub(crate) fn server(
        format: Format,
        task: impl Future<Output = Result<(), Failure>> + 'static,
    ) -> Self {
        Self::new(Level::INFO, format, task)
    }

    fn new(
        level: Level,
        format: Format,
        task: impl Future<Output = Result<(), Failure>> + 'static,
    ) -> Self {
        let log = Log { level, format };
        let environment = Environment::default();
        Self { environment, log, telemetry: None, task: Box::pin(task) }
    }

    /// Adds metrics and traces.
    pub(crate) fn with_telemetry(self, telemetry: Option<Wanted>) -> Self {
        Self { telemetry, ..self }
    }

    /// Adds what must be in the environment.
    pub(crate) fn with_environment(self, environment: Environment) -> Self {
        Self { environment, ..self }
    }
}
