//! The signed request token that carries the body of a rewrap.
//!
//! Its form is checked strictly: a compact JWS with an asymmetric algorithm. Its signature is
//! not: a bearer access token says nothing of the key that signs requests, so there is no key to
//! verify it with.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::edge::Fault;

const ALGORITHMS: [&str; 10] =
    ["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "requestBody")]
    request_body: Option<Value>,
    iat: Option<f64>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// Reads the request body out of a token that is valid at `now`, give or take `skew`.
pub(crate) fn open(token: &str, now: SystemTime, skew: Duration) -> Result<String, Fault> {
    let claims = parse(token).ok_or(Fault::COULD_NOT_PARSE_TOKEN)?;
    let valid = claims.valid_at(now, skew);
    let body = match claims.request_body {
        None => return Err(Fault::MISSING_REQUEST_BODY),
        Some(Value::String(body)) => body,
        Some(_) => return Err(Fault::INVALID_REQUEST_BODY),
    };
    if valid { Ok(body) } else { Err(Fault::COULD_NOT_PARSE_TOKEN) }
}

fn parse(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if parts.next().is_some() || signature.is_empty() {
        return None;
    }
    let header: Map<String, Value> = part(header)?;
    // An extension that must be understood is not.
    if header.contains_key("crit") || !ALGORITHMS.contains(&header.get("alg")?.as_str()?) {
        return None;
    }
    part(claims)
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Claims {
    fn valid_at(&self, now: SystemTime, skew: Duration) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i128::from(now);
        let skew = i128::from(skew.as_secs());
        seconds(self.iat).is_none_or(|issued| now >= issued - skew)
            && seconds(self.exp).is_none_or(|expires| now < expires + skew)
            && seconds(self.nbf).is_none_or(|begins| now >= begins - skew)
    }
}

/// Whole seconds; zero counts as absent.
#[expect(clippy::cast_possible_truncation, reason = "fractions are dropped on purpose")]
fn seconds(claim: Option<f64>) -> Option<i128> {
    claim.map(|time| time as i64).filter(|time| *time != 0).map(i128::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_767_225_600;
    const SKEW: Duration = Duration::from_mins(1);

    fn open_at_now(token: &str) -> Result<String, Fault> {
        open(token, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), SKEW)
    }

    fn token(header: &Value, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(&header.to_string()), encode(claims), encode("signature"))
    }

    fn with_claims(claims: &Value) -> String {
        token(&json!({"alg": "RS256"}), &claims.to_string())
    }

    #[test]
    fn every_asymmetric_algorithm_is_read() {
        for alg in ALGORITHMS {
            let token = token(&json!({"alg": alg, "typ": "JWT"}), r#"{"requestBody":"b"}"#);
            assert_eq!(open_at_now(&token), Ok("b".into()), "{alg}");
        }
    }

    #[test]
    fn other_headers_are_refused() {
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "HS256"}),
            json!({"alg": "ES256K"}),
            json!({"alg": "rs256"}),
            json!({"alg": 7}),
            json!({}),
            json!([]),
            json!({"alg": "RS256", "crit": ["b64"]}),
        ] {
            let token = token(&header, r#"{"requestBody":"b"}"#);
            assert_eq!(open_at_now(&token), Err(Fault::COULD_NOT_PARSE_TOKEN), "{header}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let good = with_claims(&json!({"requestBody": "b"}));
        let (unsigned, signature) = good.rsplit_once('.').unwrap();
        let (header, claims) = unsigned.split_once('.').unwrap();
        for token in [
            String::new(),
            "..".into(),
            r#"{"requestBody":"b"}"#.into(),
            unsigned.into(),
            format!("{unsigned}."),
            format!("{good}.{signature}"),
            format!("{unsigned}.!"),
            format!("{header}=.{claims}.{signature}"),
            format!("{header}.{claims}=.{signature}"),
            format!(" {good}"),
            format!("{header}.{signature}.{signature}"),
            token(&json!({"alg": "RS256"}), "{} {}"),
            token(&json!({"alg": "RS256"}), r#"{"requestBody":"a","requestBody":"b"}"#),
        ] {
            assert_eq!(open_at_now(&token), Err(Fault::COULD_NOT_PARSE_TOKEN), "{token}");
        }
    }

    #[test]
    fn the_body_must_be_text() {
        for (claims, fault) in [
            (json!({}), Fault::MISSING_REQUEST_BODY),
            (json!({"requestBody": 7}), Fault::INVALID_REQUEST_BODY),
            (json!({"requestBody": {}}), Fault::INVALID_REQUEST_BODY),
            // The body is looked at before the times.
            (json!({"exp": 1}), Fault::MISSING_REQUEST_BODY),
        ] {
            assert_eq!(open_at_now(&with_claims(&claims)), Err(fault), "{claims}");
        }
    }

    #[test]
    fn times_are_checked_to_the_second() {
        let now = i64::try_from(NOW).unwrap();
        for (claim, time, good) in [
            ("iat", json!(now + 60), true),
            ("iat", json!(now + 61), false),
            ("exp", json!(now - 59), true),
            ("exp", json!(now - 60), false),
            ("nbf", json!(now + 60), true),
            ("nbf", json!(now + 61), false),
            ("exp", json!(0), true),
            ("exp", json!(-5), false),
            ("exp", json!(null), true),
            ("exp", json!(1e300), true),
            ("iat", json!(1e300), false),
            ("nbf", json!("soon"), false),
        ] {
            let opened = open_at_now(&with_claims(&json!({"requestBody": "b", claim: time})));
            let expected = if good { Ok("b".into()) } else { Err(Fault::COULD_NOT_PARSE_TOKEN) };
            assert_eq!(opened, expected, "{claim} {time}");
        }
    }

    proptest! {
        #[test]
        fn opening_never_panics(text in ".*", claims in ".*") {
            let _ = open_at_now(&text);
            let _ = open_at_now(&token(&json!({"alg": "RS256"}), &claims));
        }
    }
}
