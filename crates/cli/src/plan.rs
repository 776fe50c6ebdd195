//! What a subcommand is going to do.

use std::pin::Pin;

use tracing::Level;

use crate::{
    environment::Environment,
    exit::Failure,
    log::{Format, Log},
};

/// What a subcommand is going to do, decided while this is the only thread.
pub(crate) struct Plan {
    /// Set before anything else happens.
    pub(crate) environment: Environment,
    /// What is logged.
    pub(crate) log: Log,
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
        Self { environment: Environment::default(), log, task: Box::pin(task) }
    }

    /// Adds what must be in the environment.
    pub(crate) fn with_environment(self, environment: Environment) -> Self {
        Self { environment, ..self }
    }
}
