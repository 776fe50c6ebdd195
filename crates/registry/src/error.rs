//! What can go wrong in the control plane, and the words clients know it by.

use std::borrow::Cow;

use sqlx::error::ErrorKind;
use tonic::{Code, Status};

/// Result of an operation of the control plane.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of that name is there.
    #[error("resource unique field violation")]
    Exists,
    /// There is nothing of that name.
    #[error("resource not found")]
    NotFound,
    /// What a request refers to is not there. The text is for clients.
    #[error("{0}")]
    Missing(&'static str),
    /// Something is still referred to, or refers to what is not there.
    #[error("resource relation invalid")]
    Relation,
    /// The request cannot be right, whatever the state. The text is for clients.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// The settings that are kept do not go with a change. The text may quote them, and clients
    /// that may not see them are told so much only.
    #[error("{0}")]
    Settings(Cow<'static, str>),
    /// The state does not allow it. The text is for clients.
    #[error("{0}")]
    Precondition(Cow<'static, str>),
    /// The database or a device is down, or did not answer in time. The text is for clients.
    #[error("{what}")]
    Unavailable {
        /// What is.
        what: &'static str,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The schema does not fit, or could not be changed.
    #[error("database schema: {0}")]
    Schema(String),
    /// A defect on this side.
    #[error("internal error")]
    Internal(#[source] BoxError),
}

impl Error {
    /// The request cannot be right.
    pub fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(text.into())
    }

    /// The state does not allow it.
    pub fn precondition(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Precondition(text.into())
    }

    /// A defect on this side.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// The word in audit events.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::NotFound | Self::Missing(_) => "not_found",
            Self::Relation | Self::Invalid(_) | Self::Settings(_) => "invalid",
            Self::Precondition(_) => "precondition",
            Self::Unavailable { .. } => "unavailable",
            Self::Schema(_) | Self::Internal(_) => "internal",
        }
    }

    /// The status a client gets; `fallback` says what failed when there is nothing better to say.
    pub(crate) fn status(&self, fallback: &'static str) -> Status {
        match self {
            Self::Exists => Status::already_exists(self.to_string()),
            Self::NotFound | Self::Missing(_) => Status::not_found(self.to_string()),
            Self::Relation | Self::Invalid(_) => Status::invalid_argument(self.to_string()),
            Self::Settings(_) => Status::invalid_argument("the settings do not go with the change"),
            Self::Precondition(_) => Status::failed_precondition(self.to_string()),
            Self::Unavailable { source, .. } => {
                tracing::warn!(error = &**source as &dyn std::error::Error, "{self}");
                Status::unavailable(self.to_string())
            }
            Self::Schema(_) | Self::Internal(_) => {
                tracing::error!(error = self as &dyn std::error::Error, fallback);
                Status::new(Code::Internal, fallback)
            }
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let what = "the registry's database is unavailable; try again later";
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable { what, source: error.into() },
            sqlx::Error::Database(database) => match database.kind() {
                ErrorKind::UniqueViolation => Self::Exists,
                ErrorKind::ForeignKeyViolation => Self::Relation,
                _ if is_outage(database.code().as_deref()) => {
                    Self::Unavailable { what, source: error.into() }
                }
                _ => Self::internal(error),
            },
            _ => Self::internal(error),
        }
    }
}

/// SQLSTATE classes of connections, resources and operators, and SQLite's codes for a database
/// that is busy, locked, full, read-only, or cannot be opened or read.
fn is_outage(code: Option<&str>) -> bool {
    const STATES: [&str; 4] = ["08", "53", "57", "58"];
    const SQLITE: [i64; 7] = [5, 6, 8, 10, 11, 13, 14];
    let Some(code) = code else { return false };
    // A SQLSTATE has five characters; SQLite's numbers carry the primary code in the low byte.
    match code.parse::<i64>() {
        Ok(number) if code.len() < 5 => SQLITE.contains(&(number & 0xff)),
        _ => STATES.iter().any(|class| code.starts_with(class)),
    }
}
