use std::fmt;

use async_trait::async_trait;
use sha2::{Digest, Sha256};

/// Who made a request, as its verified access token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The `sub` of the token; empty when it has none.
    pub subject: String,
    /// SHA-256 of the token text, to tell requests of one token from another's without keeping it.
    pub token_fingerprint: [u8; 32],
}

/// A token was refused. The reason is for the log; clients only learn `unauthenticated`.
#[derive(Debug, thiserror::Error)]
#[error("access token refused: {0}")]
pub struct AuthError(String);

impl AuthError {
    /// Refuses for `reason`, which must not quote the token.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Decides whether an access token is good.
#[async_trait]
pub trait TokenVerifier: fmt::Debug + Send + Sync + 'static {
    /// Verifies the value of the `authorization` header.
    ///
    /// # Errors
    /// When the token is not good for every reason that would make it so.
    async fn verify(&self, authorization: &str) -> Result<Caller, AuthError>;

    /// Whether it is so lenient that a server must only listen on loopback addresses with it.
    fn loopback_only(&self) -> bool {
        false
    }
}

/// Accepts any non-empty bearer token; for a developer's own machine. A server refuses to listen
/// on anything but a loopback address with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DevVerifier;

#[async_trait]
impl TokenVerifier for DevVerifier {
    async fn verify(&self, authorization: &str) -> Result<Caller, AuthError> {
        let token = token_of(authorization)?;
        Ok(Caller { subject: "dev".into(), token_fingerprint: fingerprint(token) })
    }

    fn loopback_only(&self) -> bool {
        true
    }
}

/// The token behind one of the two schemes, which are matched exactly.
pub(crate) fn token_of(authorization: &str) -> Result<&str, AuthError> {
    ["Bearer ", "DPoP "]
        .iter()
        .find_map(|scheme| authorization.strip_prefix(scheme))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| AuthError::new("the scheme is neither `Bearer ` nor `DPoP ` with a token"))
}

/// SHA-256 of a token.
pub(crate) fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
