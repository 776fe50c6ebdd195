use std::{error::Error as StdError, fmt, sync::Arc};

use kasbah_trust::Error;

/// An error of the source, for all who waited for it. Reads as the error it shares, without the
/// category in front, which each who waited puts there anew.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Arc<Error>);

impl Failure {
    /// Whether the source could not be asked, so that what it said before still counts.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(*self.0, Error::Unavailable(_) | Error::Busy)
    }

    /// The error for one of those who waited.
    pub(crate) fn into_error(self) -> Error {
        match &*self.0 {
            Error::Busy => Error::Busy,
            Error::NotPermitted(rule) => Error::NotPermitted(rule),
            Error::Unavailable(_) => Error::unavailable(self),
            Error::Unsupported(what) => Error::Unsupported(what),
            Error::Decrypt | Error::Exists(_) | Error::Internal(_) | Error::NotFound(_) => {
                Error::internal(self)
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Error::Internal(source) | Error::Unavailable(source) => source.fmt(f),
            other => other.fmt(f),
        }
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &*self.0 {
            Error::Internal(source) | Error::Unavailable(source) => source.source(),
            other => other.source(),
        }
    }
}
