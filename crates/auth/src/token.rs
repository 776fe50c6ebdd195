use std::{fmt, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::Refusal;

/// Decides whether an access token is good.
#[async_trait]
pub trait TokenVerifier: fmt::Debug + Send + Sync + 'static {
    /// Verifies the text behind `Bearer ` or `DPoP `; whether its sender holds the key it is bound
    /// to is not looked at.
    ///
    /// # Errors
    /// When the token is not good for every reason that would make it so, or nobody knows.
    async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal>;

    /// Whether it is so lenient that a server must only listen on loopback addresses with it.
    fn loopback_only(&self) -> bool {
        false
    }
}

/// An access token that is good.
#[derive(Clone)]
pub struct VerifiedToken {
    /// `iss`.
    pub issuer: String,
    /// `sub`; empty when there is none or it is no text.
    pub subject: String,
    /// Every claim.
    pub claims: Arc<Map<String, Value>>,
    /// `cnf`: the keys it is bound to.
    pub confirmation: Option<Confirmation>,
    /// `exp`, in seconds since 1970.
    pub expires: u64,
    /// The token itself.
    pub text: Arc<SecretString>,
    /// SHA-256 of the token, to tell one from another in logs.
    pub fingerprint: [u8; 32],
}

/// The keys that a token is bound to (RFC 7800). At least one of them is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// `jkt`: RFC 7638 thumbprint of the key that signs proofs (RFC 9449), base64url.
    pub jkt: Option<String>,
    /// `x5t#S256`: SHA-256 of the client certificate (RFC 8705), base64url.
    pub certificate: Option<String>,
}

/// SHA-256 of a token.
pub(crate) fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("issuer", &self.issuer)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// Accepts any token, as one of the subject `dev` with the role of an administrator; for a
/// developer's own machine. A server refuses to listen on anything but a loopback address with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct DevTokens;

#[async_trait]
impl TokenVerifier for DevTokens {
    async fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, Refusal> {
        let claims = serde_json::json!({
            "sub": "dev", "azp": "dev", "realm_access": { "roles": ["opentdf-admin"] },
        });
        Ok(Arc::new(VerifiedToken {
            issuer: "dev".to_owned(),
            subject: "dev".to_owned(),
            claims: Arc::new(claims.as_object().cloned().unwrap_or_default()),
            confirmation: None,
            expires: u64::MAX,
            text: Arc::new(token.to_owned().into()),
            fingerprint: fingerprint(token),
        }))
    }

    fn loopback_only(&self) -> bool {
        true
    }
}
