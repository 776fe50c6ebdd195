use std::{borrow::Cow, time::Duration};

/// A request is not let in. The reason is for the log and never quotes the token or a claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What the client is told.
    pub kind: RefusalKind,
    /// What the log is told.
    pub reason: Cow<'static, str>,
}

/// What a client may know of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// There is no `authorization` header.
    MissingHeader,
    /// The token is not good.
    Token,
    /// The proof of possession (RFC 9449) is not good.
    Proof,
    /// The proof lacks a nonce of this server, or has one that is no longer good.
    Nonce,
    /// The caller may not make this call.
    Forbidden,
    /// Whether the token is good cannot be found out now.
    Unavailable,
    /// There is no room to remember one more proof.
    Exhausted,
    /// The caller has called too often, and may call again after this time.
    TooOften(Duration),
}

impl RefusalKind {
    /// Its word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingHeader => "missing-header",
            Self::Token => "token",
            Self::Proof => "proof",
            Self::Nonce => "nonce",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
            Self::Exhausted => "exhausted",
            Self::TooOften(_) => "too-often",
        }
    }
}

impl Refusal {
    /// Refuses because of the token.
    pub fn token(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: RefusalKind::Token, reason: reason.into() }
    }

    /// Refuses because of the proof of possession.
    pub fn proof(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: RefusalKind::Proof, reason: reason.into() }
    }

    /// Refuses because the caller may not make the call.
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: RefusalKind::Forbidden, reason: reason.into() }
    }

    /// Refuses because it cannot be found out.
    pub fn unavailable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: RefusalKind::Unavailable, reason: reason.into() }
    }
}
