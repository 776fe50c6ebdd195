use std::{path::PathBuf, time::Duration};

use kasbah_http::{TlsError, Uri};

use crate::KeySetError;

/// An issuer of access tokens, and what its tokens must say.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// The exact `iss`; for [`KeySource::Discovery`] without `jwks_uri`, also where to ask.
    pub issuer: String,
    /// A member of `aud`.
    pub audience: String,
    /// The algorithms that are allowed, as `alg` has them; empty for every asymmetric one.
    pub algorithms: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In the text of a JSON Web Key Set (RFC 7517).
    Jwks(String),
    /// One key, PEM `PUBLIC KEY`. It has no `kid`, so a token may name any.
    Pem(String),
    /// At the issuer, found by `OpenID` Connect Discovery 1.0.
    Discovery {
        /// Where the key set is, if it need not be discovered.
        jwks_uri: Option<Uri>,
        /// PEM certificates of the authorities to trust; `None` for those of the system.
        ca_file: Option<PathBuf>,
        /// Longest time to fetch the keys, discovery included; 5 seconds are usual.
        timeout: Duration,
    },
}

/// What holds for the tokens of every issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRules {
    /// Tolerance for clocks that differ; whole seconds count.
    pub skew: Duration,
    /// Keys that were fetched are fetched again after this.
    pub refresh: Duration,
    /// Keys that were fetched are used no longer than this.
    pub stale_limit: Duration,
    /// Shortest time between two fetches because a `kid` is not known, per issuer.
    pub unknown_kid_interval: Duration,
    /// Most verified tokens that are remembered; 0 for none. One takes a few times its length.
    pub cache_entries: usize,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            skew: Duration::from_mins(1),
            refresh: Duration::from_mins(15),
            stale_limit: Duration::from_hours(1),
            unknown_kid_interval: Duration::from_secs(10),
            cache_entries: 10_000,
        }
    }
}

/// Settings that no token could be verified with.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not the name of a supported asymmetric algorithm.
    #[error("issuer `{issuer}`: `{algorithm}` is none of {}", crate::jws::ALGORITHMS.join(", "))]
    Algorithm {
        /// Of which issuer.
        issuer: String,
        /// As it was given.
        algorithm: String,
    },
    /// `audience` is empty.
    #[error("issuer `{0}`: the audience is empty")]
    Audience(String),
    /// Two issuers have the same `iss`.
    #[error("issuer `{0}` is configured twice")]
    DuplicateIssuer(String),
    /// Discovery needs a URL.
    #[error(
        "issuer `{0}` is no http or https URL without query, so its keys cannot be discovered; \
         configure its keys or its jwks_uri"
    )]
    IssuerUrl(String),
    /// `jwks_uri` is not acceptable.
    #[error("issuer `{0}`: jwks_uri must be an https URL; http is for issuers with http alone")]
    JwksUri(String),
    /// The keys that were given are of no use.
    #[error("issuer `{issuer}`: {source}")]
    Keys {
        /// Of which issuer.
        issuer: String,
        /// What is wrong with them.
        source: KeySetError,
    },
    /// Nobody's tokens would be accepted.
    #[error("no issuer is configured")]
    NoIssuer,
    /// https cannot be checked.
    #[error("issuer `{issuer}`: {source}")]
    Tls {
        /// Of which issuer.
        issuer: String,
        /// Why not.
        source: TlsError,
    },
}
