use hyper::StatusCode;

/// Why a token is not given (RFC 6749, section 5.2; RFC 9449, section 5); quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many proofs of possession to remember.
    Busy,
    /// Signing fails.
    Failed,
    /// The client is unknown, or its secret is another.
    InvalidClient,
    /// The proof of possession does not hold.
    InvalidProof(&'static str),
    /// The request has not the form that it has to have.
    InvalidRequest(&'static str),
    /// The body is too long.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// Another `grant_type` than `client_credentials`.
    UnsupportedGrantType,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidClient => StatusCode::UNAUTHORIZED,
            Self::InvalidProof(_) | Self::InvalidRequest(_) | Self::UnsupportedGrantType => {
                StatusCode::BAD_REQUEST
            }
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// `error`
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Busy => "temporarily_unavailable",
            Self::Failed => "server_error",
            Self::InvalidClient => "invalid_client",
            Self::InvalidProof(_) => "invalid_dpop_proof",
            Self::InvalidRequest(_) | Self::TooLarge | Self::TooSlow => "invalid_request",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }

    /// `error_description`
    pub(crate) fn description(self) -> String {
        match self {
            Self::Busy => "too many proofs of possession; try again in a minute".to_owned(),
            Self::Failed => "the token cannot be signed".to_owned(),
            Self::InvalidClient => "no client of this id and secret".to_owned(),
            Self::InvalidProof(reason) => format!("the DPoP proof does not hold: {reason}"),
            Self::InvalidRequest(reason) => reason.to_owned(),
            Self::TooLarge => "the body is longer than 64 KiB".to_owned(),
            Self::TooSlow => "the body did not come in time".to_owned(),
            Self::UnsupportedGrantType => "only client_credentials is supported".to_owned(),
        }
    }
}
