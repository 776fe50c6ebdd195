use std::{fmt, sync::Arc};

use crate::{Jws, JwsError, VerifiedToken, VerifyingKey};

/// Who makes a request; made by the gate alone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Caller {
    /// The access token.
    pub token: Arc<VerifiedToken>,
    /// The client that asked for the token (`azp` if not configured otherwise); may be empty.
    pub client_id: String,
    /// How well the sender proved that the token is theirs.
    pub proof: Proof,
    /// The key that signed the proof of possession; signed request tokens must be signed by it.
    pub proof_key: Option<Arc<ProofKey>>,
    /// Whether private key material and settings of providers may be shown, wrapped as it is.
    pub sees_private: bool,
}

/// How well the sender of a token proves that it is theirs; a later one is worth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// Not at all: who has the token may use it.
    Bearer,
    /// Signs each request (RFC 9449).
    Dpop,
    /// Holds the key of the client certificate that the token is bound to (RFC 8705).
    Mtls,
}

impl Proof {
    /// The word in configurations and audit events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Dpop => "dpop",
            Self::Mtls => "mtls",
        }
    }
}

/// The public key that signed a proof of possession.
pub struct ProofKey {
    pub(crate) key: VerifyingKey,
    pub(crate) thumbprint: String,
}

impl ProofKey {
    /// RFC 7638 thumbprint, base64url.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Verifies that this key signed `jws`, with any of its algorithms.
    ///
    /// # Errors
    /// When it did not.
    pub fn verify(&self, jws: &Jws<'_>) -> Result<(), JwsError> {
        jws.verify(&self.key)
    }
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofKey").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}
