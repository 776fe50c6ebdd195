//! Proofs of possession at the token endpoint (RFC 9449, sections 4 and 5).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kasbah_auth::{Jws, VerifyingKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;

/// `alg` of proofs.
pub(crate) const ALGORITHMS: [&str; 10] =
    ["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
/// How far the clock of a client may be off, in seconds, either way.
const SKEW: u64 = 60;
/// Most proofs remembered.
const MOST: usize = 10_000;

/// Proofs that were used, by digest of their `jti`, and when each may be forgotten.
#[derive(Default)]
pub(crate) struct Used(Mutex<HashMap<[u8; 32], u64>>);

/// A proof that is good unless it was used before.
pub(crate) struct GoodProof {
    jti: [u8; 32],
    iat: u64,
    thumbprint: String,
}

impl GoodProof {
    /// Checks everything but whether it was used before. `endpoint` is the URL that it has to be
    /// for, `now` in seconds since 1970.
    pub(crate) fn read(proof: &str, endpoint: &str, now: u64) -> Result<Self, Refusal> {
        let jws = Jws::parse(proof).map_err(|_| bad("it is no JWS"))?;
        require(jws.header_text("typ") == Some("dpop+jwt"), "its typ is not dpop+jwt")?;
        let jwk = jws.header().get("jwk").and_then(Value::as_object);
        let jwk = jwk.ok_or(bad("it has no jwk"))?;
        let is_private = PRIVATE.iter().any(|name| jwk.contains_key(*name));
        require(!is_private, "its jwk is a private key")?;
        let key =
            VerifyingKey::from_jwk(jwk).map_err(|_| bad("its jwk is of no supported type"))?;
        jws.verify(&key).map_err(|_| bad("its signature is wrong"))?;
        let claims = jws.claims();
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        require(text("htm") == Some("POST"), "its htm is not POST")?;
        let htu = text("htu").ok_or(bad("it has no htu"))?;
        require(is_same_url(htu, endpoint), "its htu is not the token endpoint")?;
        let iat = claims.get("iat").and_then(Value::as_u64).ok_or(bad("it has no iat"))?;
        require(iat.abs_diff(now) <= SKEW, "its iat is too far from now")?;
        let exp = claims.get("exp").map(Value::as_u64);
        require(exp.is_none_or(|exp| exp.is_some_and(|exp| exp > now)), "it has expired")?;
        let jti = text("jti").filter(|jti| !jti.is_empty()).ok_or(bad("it has no jti"))?;
        let thumbprint = thumbprint(jwk).ok_or(bad("its jwk is of no supported type"))?;
        Ok(Self { jti: Sha256::digest(jti).into(), iat, thumbprint })
    }

    /// Thumbprint of its key, if it was not used before.
    pub(crate) fn spend(self, used: &Used, now: u64) -> Result<String, Refusal> {
        let mut used = used.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MOST {
            used.retain(|_, forget| *forget >= now);
        }
        if used.len() >= MOST {
            return Err(Refusal::Busy);
        }
        let forget = self.iat.saturating_add(SKEW);
        let known = used.entry(self.jti).or_default();
        let is_new = *known < now;
        *known = forget.max(*known);
        require(is_new, "it was used before")?;
        Ok(self.thumbprint)
    }
}

/// RFC 7638 thumbprint with SHA-256, base64url; `None` for a key of another type.
pub(crate) fn thumbprint(jwk: &Map<String, Value>) -> Option<String> {
    let members: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    // In the order that the RFC wants, whether the map sorts or not.
    let mut canonical = Map::new();
    for name in members {
        let value = jwk.get(*name).filter(|value| value.is_string())?;
        canonical.insert((*name).to_owned(), value.clone());
    }
    let text = Value::Object(canonical).to_string();
    Some(URL_SAFE_NO_PAD.encode(Sha256::digest(text)))
}

/// Whether two http URLs are the same but for query, fragment and the case of scheme and host.
fn is_same_url(url: &str, expected: &str) -> bool {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let path = expected.match_indices('/').nth(2).map_or(expected.len(), |(at, _)| at);
    let (Some((origin, rest)), (expected_origin, expected_rest)) =
        (url.split_at_checked(path), expected.split_at(path))
    else {
        return false;
    };
    origin.eq_ignore_ascii_case(expected_origin) && rest == expected_rest
}

fn require(holds: bool, reason: &'static str) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(bad(reason)) }
}

fn bad(reason: &'static str) -> Refusal {
    Refusal::InvalidProof(reason)
}

/// Members of a JWK that only private and symmetric keys have (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(jti: usize, iat: u64) -> GoodProof {
        GoodProof { jti: Sha256::digest(jti.to_be_bytes()).into(), iat, thumbprint: "t".to_owned() }
    }

    #[test]
    fn a_proof_is_remembered_for_as_long_as_it_is_good() {
        let used = Used::default();
        assert_eq!(proof(1, 100).spend(&used, 100), Ok("t".to_owned()));
        // An older one of the same `jti` does not make the first good again.
        proof(1, 50).spend(&used, 105).unwrap_err();
        proof(1, 100).spend(&used, 115).unwrap_err();
        proof(1, 100).spend(&used, 160).unwrap_err();
        proof(1, 161).spend(&used, 161).unwrap();
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let used = Used::default();
        for jti in 0..MOST {
            proof(jti, 100).spend(&used, 100).unwrap();
        }
        assert_eq!(proof(MOST, 100).spend(&used, 160), Err(Refusal::Busy));
        proof(0, 100).spend(&used, 160).unwrap_err();
        proof(MOST, 161).spend(&used, 161).unwrap();
        assert_eq!(used.0.lock().unwrap().len(), 1, "the rest was of no use any more");
    }
}
