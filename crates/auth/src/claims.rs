//! What the header and the claims of an access token must say.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{Confirmation, Refusal, jws::ALGORITHMS};

/// `typ` of access tokens, in lower case. Proofs, logout tokens and others have one of their own.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];
/// The end of the year 9999.
const LATEST: f64 = 253_402_300_799.0;

/// Header members by which a token would bring its own key.
const KEYS_OF_THE_SENDER: [&str; 3] = ["jwk", "jku", "x5u"];

/// Checks the header but for which key it names, and returns its `alg`.
pub(crate) fn check_header(header: &Map<String, Value>) -> Result<&str, Refusal> {
    let typ = header.get("typ").map(|typ| typ.as_str().unwrap_or_default().to_ascii_lowercase());
    if typ.is_some_and(|typ| !TYPES.contains(&typ.as_str())) {
        return Err(Refusal::token("its typ is not that of an access token"));
    }
    if KEYS_OF_THE_SENDER.iter().any(|name| header.contains_key(*name)) {
        return Err(Refusal::token("its header brings a key"));
    }
    let algorithm = header.get("alg").and_then(Value::as_str);
    algorithm
        .filter(|algorithm| ALGORITHMS.contains(algorithm))
        .ok_or(Refusal::token("its algorithm is no asymmetric signature"))
}

/// `kid` of the header.
pub(crate) fn kid(header: &Map<String, Value>) -> Result<Option<&str>, Refusal> {
    match header.get("kid") {
        None => Ok(None),
        Some(kid) => kid.as_str().map(Some).ok_or(Refusal::token("its kid is no text")),
    }
}

/// Whether `aud` is or contains `audience`.
pub(crate) fn check_audience(claims: &Map<String, Value>, audience: &str) -> Result<(), Refusal> {
    let good = match claims.get("aud") {
        Some(Value::String(only)) => only == audience,
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
            all.iter().any(|one| one == audience)
        }
        Some(_) => return Err(Refusal::token("its aud is neither a text nor a list of texts")),
        None => return Err(Refusal::token("it has no aud")),
    };
    if good { Ok(()) } else { Err(Refusal::token("it is for another audience")) }
}

/// Checks `nbf` and `iat`, and returns `exp`; in seconds since 1970.
pub(crate) fn check_times(
    claims: &Map<String, Value>,
    now: u64,
    skew: u64,
) -> Result<u64, Refusal> {
    let expires = time(claims, "exp")?.ok_or(Refusal::token("it has no exp"))?;
    check_expiry(expires, now, skew)?;
    let latest = now.saturating_add(skew);
    if time(claims, "nbf")?.is_some_and(|time| time > latest) {
        return Err(Refusal::token("it is not valid yet"));
    }
    if time(claims, "iat")?.is_some_and(|time| time > latest) {
        return Err(Refusal::token("it was issued in the future"));
    }
    Ok(expires)
}

pub(crate) fn check_expiry(expires: u64, now: u64, skew: u64) -> Result<(), Refusal> {
    let expired = now >= expires.saturating_add(skew);
    if expired { Err(Refusal::token("it has expired")) } else { Ok(()) }
}

/// A `NumericDate` (RFC 7519, section 2) without its fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the fraction does not count, and the rest is in bounds"
        )]
        Some(time) if (0.0..=LATEST).contains(&time) => Ok(Some(time as u64)),
        Some(_) => Err(Refusal::token("a time in it is before 1970 or after 9999")),
        None => Err(Refusal::token("a time in it is no number")),
    }
}

/// `cnf`. A token that is bound in another way is refused: nothing here could check it.
pub(crate) fn confirmation(claims: &Map<String, Value>) -> Result<Option<Confirmation>, Refusal> {
    let Some(bound) = claims.get("cnf") else { return Ok(None) };
    let bound = bound.as_object().ok_or(Refusal::token("its cnf is no object"))?;
    let confirmation =
        Confirmation { jkt: digest(bound, "jkt")?, certificate: digest(bound, "x5t#S256")? };
    if confirmation.jkt.is_none() && confirmation.certificate.is_none() {
        return Err(Refusal::token("it is bound to a key in a way that is not known (cnf)"));
    }
    Ok(Some(confirmation))
}

fn digest(bound: &Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    let Some(value) = bound.get(name) else { return Ok(None) };
    let text = value
        .as_str()
        .filter(|text| URL_SAFE_NO_PAD.decode(text).is_ok_and(|digest| digest.len() == 32));
    let text = text.ok_or(Refusal::token("its cnf names no SHA-256 digest in base64url"))?;
    Ok(Some(text.to_owned()))
}
