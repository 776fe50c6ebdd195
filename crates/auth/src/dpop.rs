//! Proofs of possession of the key that an access token is bound to (RFC 9449).

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::constant_time;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretBox;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    Jws, OriginError, Presented, ProofKey, Refusal, RefusalKind, ReplayError, ReplayStore, Seen,
    VerifyingKey, htu::Origins, nonce::Nonces,
};

/// Longest proof, in bytes.
const MAX_PROOF: usize = 8 * 1024;
/// Longest `jti`, in bytes.
const MAX_JTI: usize = 256;
const MAX_AGE: Duration = Duration::from_hours(1);
const MAX_SKEW: Duration = Duration::from_mins(5);
const MIN_NONCE_PERIOD: Duration = Duration::from_secs(10);
const MAX_NONCE_PERIOD: Duration = Duration::from_hours(1);
/// Algorithms that proofs may be signed with if nothing else is set.
const ALGORITHMS: [&str; 9] =
    ["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
/// One more that may be allowed.
const EDDSA: &str = "EdDSA";
/// Members of a JSON Web Key that no public key has (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

mod reason {
    pub(super) const COUNT: &str = "there is not exactly one proof of possession";
    pub(super) const SIZE: &str = "the proof is too long";
    pub(super) const FORM: &str = "the proof is no compact JWS with JSON objects in it";
    pub(super) const TYP: &str = "the proof's typ is not dpop+jwt";
    pub(super) const ALG: &str = "the proof's alg is not allowed";
    pub(super) const JWK: &str = "the proof's jwk is missing or no object";
    pub(super) const PRIVATE: &str = "the proof's jwk is no public key";
    pub(super) const JWK_ALG: &str = "the proof's jwk is for another alg";
    pub(super) const KEY: &str = "the proof's jwk is no key of a supported type";
    pub(super) const FIT: &str = "the proof's alg does not fit its jwk";
    pub(super) const JKT: &str = "the proof's jwk is not the one that the token is bound to";
    pub(super) const SIGNATURE: &str = "the proof's signature is wrong";
    pub(super) const IAT: &str = "the proof's iat is missing or no number";
    pub(super) const OLD: &str = "the proof's iat is too long ago";
    pub(super) const FUTURE: &str = "the proof's iat is in the future";
    pub(super) const EXP: &str = "the proof's exp is no number";
    pub(super) const EXPIRED: &str = "the proof has expired";
    pub(super) const NBF: &str = "the proof's nbf is no number";
    pub(super) const EARLY: &str = "the proof is not yet valid";
    pub(super) const HTM: &str = "the proof's htm is missing or no text";
    pub(super) const METHOD: &str = "the proof is for another method";
    pub(super) const HTU: &str = "the proof's htu is missing or no text";
    pub(super) const TARGET: &str = "the proof is for another URI";
    pub(super) const ATH: &str = "the proof's ath is missing or no text";
    pub(super) const TOKEN: &str = "the proof is for another access token";
    pub(super) const NO_NONCE: &str = "the proof has no nonce";
    pub(super) const NONCE: &str = "the proof's nonce is no text";
    pub(super) const STALE: &str = "the proof's nonce is not one of ours, or was";
    pub(super) const JTI: &str = "the proof's jti is missing or no text of 1 to 256 bytes";
    pub(super) const REPLAY: &str = "the proof was used before";
    pub(super) const FULL: &str = "there is no room to remember one more proof";
    pub(super) const QUOTA: &str = "the key has used up its room for proofs";
    pub(super) const UNREACHABLE: &str = "the store of used proofs does not answer";
}

/// Rules for proofs of possession.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches that an operator sets one by one")]
pub struct DpopSettings {
    /// Refuse tokens that are bound to nothing. Off by default.
    pub enforce: bool,
    /// Accept only proofs with a nonce of ours. Off by default.
    pub require_nonce: bool,
    /// How long a nonce is handed out; it is good for as long again. From 10 seconds to an hour,
    /// 5 minutes by default.
    pub nonce_period: Duration,
    /// What nonces are made with; the same for all servers behind one origin. Without, each
    /// process has its own.
    pub nonce_secret: Option<SecretBox<[u8; 32]>>,
    /// How long ago `iat` may be. From a second to an hour, 5 minutes by default.
    pub max_age: Duration,
    /// By how much clocks may differ. At most 5 minutes, 30 seconds by default.
    pub skew: Duration,
    /// Accept an `htu` that is a path only, as some clients send. On by default.
    pub path_only_htu: bool,
    /// Accept a bound token under the scheme `Bearer`, if its proof is good. On by default.
    pub bound_by_bearer: bool,
    /// Names of the algorithms that proofs may be signed with: RS, PS and ES with 256, 384 and 512
    /// by default; `EdDSA` may be added.
    pub algorithms: Vec<String>,
    /// The origins under which clients know this server, `scheme://host` or `scheme://host:port`
    /// each. At least one is needed; the `host` header is not looked at.
    pub origins: Vec<String>,
}

impl Default for DpopSettings {
    fn default() -> Self {
        Self {
            enforce: false,
            require_nonce: false,
            nonce_period: Duration::from_mins(5),
            nonce_secret: None,
            max_age: Duration::from_mins(5),
            skew: Duration::from_secs(30),
            path_only_htu: true,
            bound_by_bearer: true,
            algorithms: ALGORITHMS.map(str::to_owned).to_vec(),
            origins: Vec::new(),
        }
    }
}

/// What is wrong with [`DpopSettings`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DpopSettingsError {
    /// An algorithm that proofs cannot be signed with.
    #[error("algorithm {0:?} is none that proofs can be signed with")]
    Algorithm(String),
    /// A duration out of bounds.
    #[error("{name} is not from {least:?} to {most:?}")]
    Duration {
        /// Which one.
        name: &'static str,
        /// The shortest.
        least: Duration,
        /// The longest.
        most: Duration,
    },
    /// No algorithms.
    #[error("there are no algorithms")]
    NoAlgorithms,
    /// No origins.
    #[error("there are no origins, so no proof could be for this server")]
    NoOrigins,
    /// A text that is no origin. It is not quoted, as there may be a password in it.
    #[error("origin number {number} cannot be used: {error}")]
    Origin {
        /// Its place in the list, from 1.
        number: usize,
        /// Why.
        error: OriginError,
    },
    /// There is no randomness for a secret.
    #[error("there is no randomness")]
    Random,
}

/// Checks proofs of possession.
pub(crate) struct Dpop {
    algorithms: Vec<String>,
    max_age: i64,
    skew: i64,
    path_only_htu: bool,
    origins: Origins,
    nonces: Option<Nonces>,
    replay: Arc<dyn ReplayStore>,
}

/// A proof that is good, if it was not used before.
struct Unused {
    key: ProofKey,
    jti: String,
    /// The last second at which it would be accepted, by the slowest clock.
    until: u64,
}

impl Dpop {
    /// # Errors
    /// When `settings` are not sound.
    pub(crate) fn new(
        settings: DpopSettings,
        replay: Arc<dyn ReplayStore>,
    ) -> Result<Self, DpopSettingsError> {
        let second = Duration::from_secs(1);
        within("max_age", settings.max_age, second, MAX_AGE)?;
        within("skew", settings.skew, Duration::ZERO, MAX_SKEW)?;
        within("nonce_period", settings.nonce_period, MIN_NONCE_PERIOD, MAX_NONCE_PERIOD)?;
        known(&settings.algorithms)?;
        if settings.origins.is_empty() {
            return Err(DpopSettingsError::NoOrigins);
        }
        let nonces = settings
            .require_nonce
            .then(|| Nonces::new(settings.nonce_secret.as_ref(), settings.nonce_period))
            .transpose()
            .map_err(|_| DpopSettingsError::Random)?;
        Ok(Self {
            max_age: whole_seconds(settings.max_age),
            skew: whole_seconds(settings.skew),
            path_only_htu: settings.path_only_htu,
            origins: Origins::parse(&settings.origins)
                .map_err(|(number, error)| DpopSettingsError::Origin { number, error })?,
            algorithms: settings.algorithms,
            nonces,
            replay,
        })
    }

    /// The nonce that clients have to use, if they have to.
    pub(crate) fn nonce(&self, now: u64) -> Option<String> {
        self.nonces.as_ref().map(|nonces| nonces.current(now))
    }

    /// The key behind the proof of a request, which is the one with the thumbprint `jkt`.
    ///
    /// # Errors
    /// When the proof is not good, was used before, or nobody knows.
    pub(crate) async fn check(
        &self,
        presented: &Presented<'_>,
        jkt: &str,
        now: u64,
    ) -> Result<ProofKey, Refusal> {
        let proof = self.read(presented, jkt, now)?;
        match self.replay.remember(jkt, &proof.jti, proof.until).await {
            Ok(Seen::First) => Ok(proof.key),
            Ok(Seen::Again) => Err(Refusal::proof(reason::REPLAY)),
            Err(ReplayError::Full) => Err(Refusal::unavailable(reason::FULL)),
            Err(ReplayError::Unreachable) => Err(Refusal::unavailable(reason::UNREACHABLE)),
            Err(ReplayError::Quota) => {
                Err(Refusal { kind: RefusalKind::Exhausted, reason: reason::QUOTA.into() })
            }
        }
    }

    fn read(&self, presented: &Presented<'_>, jkt: &str, now: u64) -> Result<Unused, Refusal> {
        let [proof] = presented.proofs else { return Err(Refusal::proof(reason::COUNT)) };
        require(proof.len() <= MAX_PROOF, reason::SIZE)?;
        let jws = Jws::parse(proof).map_err(|_| Refusal::proof(reason::FORM))?;
        let key = self.key(&jws, jkt)?;
        let claims = jws.claims();
        let until = self.time(claims, i64::try_from(now).unwrap_or(i64::MAX))?;
        self.target(claims, presented)?;
        let ath = text(claims, "ath", reason::ATH)?;
        require(is_hash(ath, presented.access_token), reason::TOKEN)?;
        self.fresh(claims, now)?;
        let jti = text(claims, "jti", reason::JTI)?.to_owned();
        require((1..=MAX_JTI).contains(&jti.len()), reason::JTI)?;
        Ok(Unused { key, jti, until })
    }

    /// The key in the header, which signed it.
    fn key(&self, jws: &Jws<'_>, jkt: &str) -> Result<ProofKey, Refusal> {
        require(jws.header_text("typ") == Some("dpop+jwt"), reason::TYP)?;
        let algorithm = jws.header_text("alg").ok_or_else(|| Refusal::proof(reason::ALG))?;
        require(self.algorithms.iter().any(|allowed| allowed == algorithm), reason::ALG)?;
        let jwk = jws.header().get("jwk").and_then(Value::as_object);
        let jwk = jwk.ok_or_else(|| Refusal::proof(reason::JWK))?;
        require(!PRIVATE.iter().any(|name| jwk.contains_key(*name)), reason::PRIVATE)?;
        let is_other = jwk.get("alg").is_some_and(|named| named.as_str() != Some(algorithm));
        require(!is_other, reason::JWK_ALG)?;
        let thumbprint = thumbprint(jwk).ok_or_else(|| Refusal::proof(reason::KEY))?;
        require(is_same(&thumbprint, jkt), reason::JKT)?;
        let key = verifying_key(jwk, algorithm)?;
        jws.verify(&key).map_err(|_| Refusal::proof(reason::SIGNATURE))?;
        Ok(ProofKey { key, thumbprint })
    }

    /// Until when the proof is to be remembered, if it is good at `now`.
    fn time(&self, claims: &Map<String, Value>, now: i64) -> Result<u64, Refusal> {
        let iat = claims.get("iat").and_then(seconds);
        let iat = iat.ok_or_else(|| Refusal::proof(reason::IAT))?;
        let last = iat.saturating_add(self.max_age);
        require(now <= last, reason::OLD)?;
        require(iat <= now.saturating_add(self.skew), reason::FUTURE)?;
        if let Some(exp) = claims.get("exp") {
            let exp = seconds(exp).ok_or_else(|| Refusal::proof(reason::EXP))?;
            require(now.saturating_sub(self.skew) < exp, reason::EXPIRED)?;
        }
        if let Some(nbf) = claims.get("nbf") {
            let nbf = seconds(nbf).ok_or_else(|| Refusal::proof(reason::NBF))?;
            require(nbf <= now.saturating_add(self.skew), reason::EARLY)?;
        }
        Ok(u64::try_from(last.saturating_add(self.skew)).unwrap_or(0))
    }

    fn target(&self, claims: &Map<String, Value>, to: &Presented<'_>) -> Result<(), Refusal> {
        require(text(claims, "htm", reason::HTM)? == to.method, reason::METHOD)?;
        let htu = text(claims, "htu", reason::HTU)?;
        require(self.origins.accept(htu, to.path, self.path_only_htu), reason::TARGET)
    }

    /// Whether the nonce is good, if one is needed.
    fn fresh(&self, claims: &Map<String, Value>, now: u64) -> Result<(), Refusal> {
        let Some(nonces) = &self.nonces else { return Ok(()) };
        let Some(nonce) = claims.get("nonce") else { return Err(other_nonce(reason::NO_NONCE)) };
        let nonce = nonce.as_str().ok_or_else(|| Refusal::proof(reason::NONCE))?;
        if nonces.is_good(nonce, now) { Ok(()) } else { Err(other_nonce(reason::STALE)) }
    }
}

impl fmt::Debug for Dpop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dpop")
            .field("algorithms", &self.algorithms)
            .field("origins", &self.origins)
            .field("replay", &self.replay)
            .finish_non_exhaustive()
    }
}

fn within(
    name: &'static str,
    duration: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), DpopSettingsError> {
    let is_within = (least..=most).contains(&duration);
    if is_within { Ok(()) } else { Err(DpopSettingsError::Duration { name, least, most }) }
}

fn known(algorithms: &[String]) -> Result<(), DpopSettingsError> {
    if algorithms.is_empty() {
        return Err(DpopSettingsError::NoAlgorithms);
    }
    let is_known = |name: &str| name == EDDSA || ALGORITHMS.contains(&name);
    match algorithms.iter().find(|name| !is_known(name)) {
        Some(name) => Err(DpopSettingsError::Algorithm(name.clone())),
        None => Ok(()),
    }
}

/// The bounds of settings make it fit.
fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(0)
}

fn require(holds: bool, reason: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::proof(reason)) }
}

fn other_nonce(reason: &'static str) -> Refusal {
    Refusal { kind: RefusalKind::Nonce, reason: reason.into() }
}

fn text<'a>(
    claims: &'a Map<String, Value>,
    name: &str,
    reason: &'static str,
) -> Result<&'a str, Refusal> {
    claims.get(name).and_then(Value::as_str).ok_or_else(|| Refusal::proof(reason))
}

/// A `NumericDate` (RFC 7519, section 2), rounded down; what does not fit becomes the nearest that
/// does.
#[expect(clippy::cast_possible_truncation, reason = "the nearest is what is wanted")]
fn seconds(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds.floor() as i64))
}

/// RFC 7638 thumbprint with SHA-256, base64url.
fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    let names: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let member = |name: &&str| {
        let value = jwk.get(*name).filter(|value| value.is_string())?;
        Some(format!("\"{name}\":{value}"))
    };
    let members = names.iter().map(member).collect::<Option<Vec<_>>>()?;
    Some(URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{{{}}}", members.join(",")))))
}

fn verifying_key(jwk: &Map<String, Value>, algorithm: &str) -> Result<VerifyingKey, Refusal> {
    let key = VerifyingKey::from_jwk(jwk).map_err(|_| Refusal::proof(reason::KEY))?;
    require(key.algorithms().contains(&algorithm), reason::FIT)?;
    Ok(key)
}

/// Whether `text` is the base64url of the SHA-256 of `of`.
fn is_hash(text: &str, of: &str) -> bool {
    is_same(text, &URL_SAFE_NO_PAD.encode(Sha256::digest(of)))
}

fn is_same(one: &str, other: &str) -> bool {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 7638, section 3.1, and the key that RFC 9449, section 6.1 binds its token to.
    #[test]
    fn thumbprints_are_those_of_the_standards() {
        let rsa = json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6t\
                  Soc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-\
                  65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qN\
                  Lyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa\
                  pJzKnqDKgw",
            "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
        });
        let ec = json!({
            "kty": "EC", "crv": "P-256",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
        });
        for (jwk, expected) in [
            (rsa, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            (ec, "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"),
        ] {
            assert_eq!(thumbprint(jwk.as_object().unwrap()).as_deref(), Some(expected));
        }
    }

    #[test]
    fn dates_are_rounded_down_and_kept_in_range() {
        for (date, expected) in [
            (json!(7), Some(7)),
            (json!(7.9), Some(7)),
            (json!(-7.1), Some(-8)),
            (json!(u64::MAX), Some(i64::MAX)),
            (json!(1e300), Some(i64::MAX)),
            (json!(-1e300), Some(i64::MIN)),
            (json!("7"), None),
            (json!(null), None),
            (json!(true), None),
        ] {
            assert_eq!(seconds(&date), expected, "{date}");
        }
    }
}
