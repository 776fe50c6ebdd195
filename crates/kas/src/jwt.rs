use std::{collections::BTreeSet, fmt, fs, io, path::Path, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};
use kasbah_crypto::{Curve, PublicKey, PublicKeyError};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    AuthError, Caller, TokenVerifier,
    auth::{fingerprint, token_of},
};

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// What an access token must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRules {
    /// The exact `iss`.
    pub issuer: String,
    /// A member of `aud`.
    pub audience: String,
    /// Tolerance for clocks that differ.
    pub skew: Duration,
}

/// Verifies access tokens that are JSON Web Tokens.
///
/// Signature by one of the keys given, with an asymmetric algorithm that fits that key; `iss`,
/// `aud` and `exp` must be there; `nbf` and `iat` must not lie in the future. A token that names
/// a `kid` must name that of a key given; with several keys it must name one.
///
/// A token bound to a key (`cnf`) is refused: whether its sender holds that key is not checked
/// here, and taking it on as a bearer token would undo the binding.
pub struct JwtVerifier {
    rules: JwtRules,
    keys: Vec<VerificationKey>,
}

struct VerificationKey {
    kid: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Keys that no token could be verified with.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// Two keys of the set share a `kid`.
    #[error("the JWKS has two keys with kid `{0}`")]
    DuplicateKid(String),
    /// The file cannot be read.
    #[error("cannot read the JWKS file {path}")]
    File {
        /// Which file.
        path: Box<Path>,
        /// Why not.
        source: io::Error,
    },
    /// Not a set of JSON Web Keys.
    #[error("not a JSON Web Key Set (RFC 7517)")]
    Jwks(#[source] serde_json::Error),
    /// There are several keys, and one has no `kid`.
    #[error("the JWKS has several keys and one of them has no kid; give it one")]
    MissingKid,
    /// The PEM text is no public key, or the key is damaged.
    #[error("not a public key in PEM form (SubjectPublicKeyInfo)")]
    Pem,
    /// Nothing to verify with.
    #[error("the JWKS holds no RSA, P-256, P-384 or Ed25519 key for signatures")]
    NoUsableKey,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    sub: Value,
    iat: Option<f64>,
    cnf: Option<Value>,
}

impl JwtVerifier {
    /// Verifies with one public key: PEM `PUBLIC KEY` of an RSA, P-256, P-384 or Ed25519 key.
    ///
    /// # Errors
    /// When the text is no such key.
    pub fn from_pem(rules: JwtRules, pem: &str) -> Result<Self, JwtError> {
        let (key, algorithms) = match PublicKey::from_pem(pem) {
            Ok(PublicKey::Rsa(_)) => (DecodingKey::from_rsa_pem(pem.as_bytes()), RSA.to_vec()),
            Ok(PublicKey::Ec(key)) => {
                let algorithm = match key.curve() {
                    Curve::P256 => Algorithm::ES256,
                    Curve::P384 => Algorithm::ES384,
                    Curve::P521 => return Err(JwtError::Pem),
                };
                (DecodingKey::from_ec_pem(pem.as_bytes()), vec![algorithm])
            }
            Err(PublicKeyError::UnsupportedType) => {
                (DecodingKey::from_ed_pem(pem.as_bytes()), vec![Algorithm::EdDSA])
            }
            Err(_) => return Err(JwtError::Pem),
        };
        let key = key.map_err(|_| JwtError::Pem)?;
        Ok(Self { rules, keys: vec![VerificationKey { kid: None, key, algorithms }] })
    }

    /// Verifies with the keys of a JWKS (RFC 7517); those for other uses than signatures, and
    /// those of other types, are passed over.
    ///
    /// # Errors
    /// When the text is no JWKS, holds no usable key, or its keys cannot be told apart.
    pub fn from_jwks(rules: JwtRules, jwks: &str) -> Result<Self, JwtError> {
        let set: JwkSet = serde_json::from_str(jwks).map_err(JwtError::Jwks)?;
        let keys: Vec<_> = set.keys.iter().filter_map(verification_key).collect();
        if keys.is_empty() {
            return Err(JwtError::NoUsableKey);
        }
        let mut kids = BTreeSet::new();
        for key in &keys {
            match &key.kid {
                Some(kid) if !kids.insert(kid) => return Err(JwtError::DuplicateKid(kid.clone())),
                None if keys.len() > 1 => return Err(JwtError::MissingKid),
                _ => {}
            }
        }
        Ok(Self { rules, keys })
    }

    /// As [`JwtVerifier::from_jwks`], from a file.
    ///
    /// # Errors
    /// When the file cannot be read, and as [`JwtVerifier::from_jwks`].
    pub fn from_jwks_file(rules: JwtRules, path: &Path) -> Result<Self, JwtError> {
        let text = fs::read_to_string(path)
            .map_err(|source| JwtError::File { path: path.into(), source })?;
        Self::from_jwks(rules, &text)
    }

    fn check(&self, token: &str) -> Result<String, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| refuse(&error))?;
        if header.crit.is_some() {
            return Err(AuthError::new("its header lists critical extensions"));
        }
        let key = self.key_for(&header)?;
        let validation = self.validation(key);
        let claims: Claims = jsonwebtoken::decode(token, &key.key, &validation)
            .map_err(|error| refuse(&error))?
            .claims;
        self.check_claims(&claims)?;
        if !claims.sub.is_string() {
            tracing::warn!("the access token has no textual sub; audit events will lack the actor");
        }
        Ok(claims.sub.as_str().unwrap_or_default().to_owned())
    }

    fn key_for(&self, header: &Header) -> Result<&VerificationKey, AuthError> {
        let found = match (&header.kid, self.keys.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            // A key from PEM has no kid, so any will do.
            (Some(_), [only]) if only.kid.is_none() => Some(only),
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_ref() == Some(kid)),
        };
        found.ok_or_else(|| AuthError::new("no key for its kid"))
    }

    fn validation(&self, key: &VerificationKey) -> Validation {
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&key.algorithms);
        validation.leeway = self.rules.skew.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation
    }

    fn check_claims(&self, claims: &Claims) -> Result<(), AuthError> {
        // The library accepts a list of issuers that contains ours.
        if claims.iss.as_str() != Some(self.rules.issuer.as_str()) {
            return Err(AuthError::new("iss is not a single text"));
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds fit for 285 million years")]
        let latest = (jsonwebtoken::get_current_timestamp() + self.rules.skew.as_secs()) as f64;
        if claims.iat.is_some_and(|issued| issued > latest) {
            return Err(AuthError::new("it was issued in the future"));
        }
        if claims.cnf.is_some() {
            return Err(AuthError::new("it is bound to a key (cnf) and no proof is checked here"));
        }
        Ok(())
    }
}

#[async_trait]
impl TokenVerifier for JwtVerifier {
    async fn verify(&self, authorization: &str) -> Result<Caller, AuthError> {
        let token = token_of(authorization)?;
        Ok(Caller { subject: self.check(token)?, token_fingerprint: fingerprint(token) })
    }
}

impl fmt::Debug for JwtVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<_> = self.keys.iter().map(|key| &key.kid).collect();
        f.debug_struct("JwtVerifier").field("rules", &self.rules).field("kids", &kids).finish()
    }
}

fn refuse(error: &jsonwebtoken::errors::Error) -> AuthError {
    AuthError::new(error.to_string())
}

fn verification_key(jwk: &Jwk) -> Option<VerificationKey> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => RSA.to_vec(),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        _ => return None,
    };
    if let Some(named) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == named);
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let kid = jwk.common.key_id.clone();
    (!algorithms.is_empty()).then_some(VerificationKey { kid, key, algorithms })
}
