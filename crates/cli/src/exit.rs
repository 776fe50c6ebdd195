//! How a run ends.

use std::process::ExitCode;

use anyhow::Error;

/// Why a run did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The thing asked about is not fine.
    NotFine = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// A dependency is unavailable; the same command may work later.
    Unavailable = 3,
}

/// A run that did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// `None` when the command has reported already.
    error: Option<Error>,
}

impl Failure {
    /// Fails with an error that is yet to be shown.
    pub(crate) fn new(exit: Exit, error: impl Into<Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// Fails after the command has shown why.
    pub(crate) fn reported(exit: Exit) -> Self {
        Self { exit, error: None }
    }

    /// Wrong usage or configuration, in words.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, Error::msg(message.into()))
    }

    /// The thing asked about is not fine, in words.
    pub(crate) fn not_fine(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFine, Error::msg(message.into()))
    }

    /// The error on one line.
    pub(crate) fn sentence(&self) -> String {
        self.error.as_ref().map(sentence).unwrap_or_default()
    }

    /// Shows the error on standard error and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(error) = self.error {
            eprintln!("kasbah: {}", sentence(&error));
        }
        ExitCode::from(self.exit as u8)
    }
}

/// Says how a run ends when a step of it fails.
pub(crate) trait OrExit<T> {
    /// Ends with this code.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<Error>> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, error))
    }
}

/// An error and its causes on one line; causes that the text before them already tells are left
/// out.
pub(crate) fn sentence(error: &Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if told.is_empty() {
            told = text;
        } else if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
    }
    told
}
