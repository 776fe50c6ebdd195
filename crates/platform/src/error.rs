use std::{error::Error as StdError, fmt::Write as _, sync::Arc};

use kasbah_trust::Error;
use tonic::{Code, Status};

use crate::{ConvertError, token::TokenError};

/// Why a key could not be read. The texts are for the log and hold no secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlatformError {
    #[error("{method} at {endpoint} failed: {reason}; {hint}")]
    Call { method: &'static str, endpoint: Arc<str>, reason: String, hint: &'static str },
    #[error(transparent)]
    Convert(#[from] ConvertError),
    #[error("the platform answered with key {kid} of {kas_uri}, which was not asked for")]
    Foreign { kid: String, kas_uri: String },
    #[error("ListKeys at {endpoint} cannot be trusted to be complete: {reason}")]
    Paging { endpoint: Arc<str>, reason: String },
    #[error("{method} at {endpoint} took longer than request_timeout; is the platform healthy?")]
    Timeout { method: &'static str, endpoint: Arc<str> },
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl PlatformError {
    pub(crate) fn of(status: &Status, method: &'static str, endpoint: &Arc<str>) -> Self {
        let (reason, hint) = (reason(status), hint(status.code()));
        Self::Call { method, endpoint: Arc::clone(endpoint), reason, hint }
    }
}

impl From<PlatformError> for Error {
    fn from(error: PlatformError) -> Self {
        match error {
            PlatformError::Convert(_) | PlatformError::Foreign { .. } => Self::internal(error),
            PlatformError::Call { .. }
            | PlatformError::Paging { .. }
            | PlatformError::Timeout { .. }
            | PlatformError::Token(_) => Self::unavailable(error),
        }
    }
}

/// The code and its causes. What a server says of a token is left out: it may repeat it.
fn reason(status: &Status) -> String {
    let mut text = format!("{:?}", status.code());
    if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
        return text;
    }
    let message: String = status.message().chars().take(MESSAGE_CHARS).collect();
    let _ = write!(text, ": {message}");
    let mut cause = status.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn hint(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => {
            "check kas_uri, and that page_size is within the platform's list_request_limit_max"
        }
        Code::PermissionDenied => "the client needs a role that may read keys",
        Code::Unauthenticated => "check client_id, client_secret and the audience of the token",
        Code::Unimplemented => "is this an OpenTDF platform with key management?",
        _ => "check that the platform is up and reachable, and ca_file if it is https",
    }
}

/// Enough to recognize an error; a server may send more.
const MESSAGE_CHARS: usize = 200;
