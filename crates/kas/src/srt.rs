//! The signed request token that carries the body of a rewrap.
//!
//! Its form is always checked: a compact JWS with an asymmetric algorithm. Its signature is, and
//! must be that of the caller's key, when the caller proved to hold one. A bearer access token says
//! nothing of the key that signs requests, so there is no key to verify it with.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kasbah_auth::{Jws, ProofKey};
use serde_json::{Map, Value};

use crate::edge::Fault;

const ALGORITHMS: [&str; 10] =
    ["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// How long a token may be good, and by whose clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) now: SystemTime,
    /// Tolerance for clocks that differ.
    pub(crate) skew: Duration,
    /// The longest lifetime.
    pub(crate) lifetime: Duration,
}

/// Reads the request body out of a token that is valid now, and was signed by `key` if there is
/// one.
pub(crate) fn open(token: &str, times: Times, key: Option<&ProofKey>) -> Result<String, Fault> {
    let jws = parse(token).ok_or(Fault::COULD_NOT_PARSE_TOKEN)?;
    let refused = match key {
        Some(_) => Fault::UNABLE_TO_VERIFY_TOKEN,
        None => Fault::COULD_NOT_PARSE_TOKEN,
    };
    let is_text = match jws.claims().get("requestBody") {
        None => return Err(Fault::MISSING_REQUEST_BODY),
        Some(body) => body.is_string(),
    };
    if !is_text {
        return Err(Fault::INVALID_REQUEST_BODY);
    }
    if !times.allow(jws.claims(), key.is_some()) {
        return Err(refused);
    }
    if key.is_some_and(|key| key.verify(&jws).is_err()) {
        return Err(refused);
    }
    match jws.into_claims().remove("requestBody") {
        Some(Value::String(body)) => Ok(body),
        _ => Err(Fault::INVALID_REQUEST_BODY),
    }
}

fn parse(token: &str) -> Option<Jws<'_>> {
    let (_, signature) = token.rsplit_once('.')?;
    let is_signed = URL_SAFE_NO_PAD.decode(signature).is_ok_and(|bytes| !bytes.is_empty());
    let jws = Jws::parse(token).ok()?;
    (is_signed && ALGORITHMS.contains(&jws.header_text("alg")?)).then_some(jws)
}

impl Times {
    /// Whether a token is valid now. One that was signed for this request must say until when, or
    /// since when; others may say nothing.
    fn allow(self, claims: &Map<String, Value>, must_say: bool) -> bool {
        let read = |name| seconds(claims.get(name));
        let (Some(issued), Some(expires), Some(begins)) = (read("iat"), read("exp"), read("nbf"))
        else {
            return false;
        };
        let now = self.now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let (now, skew) = (i128::from(now), i128::from(self.skew.as_secs()));
        let lifetime = i128::from(self.lifetime.as_secs());
        let ends = match (expires, issued) {
            (Some(expires), Some(issued)) => Some(expires.min(issued + lifetime)),
            (Some(expires), None) => Some(expires),
            (None, Some(issued)) => Some(issued + lifetime),
            (None, None) => None,
        };
        issued.is_none_or(|issued| now >= issued - skew)
            && begins.is_none_or(|begins| now >= begins - skew)
            && expires.is_none_or(|expires| expires - now <= lifetime + skew)
            && ends.map_or(!must_say, |ends| now < ends + skew)
    }
}

/// Whole seconds; zero counts as absent. `None` when it is no number.
#[expect(clippy::cast_possible_truncation, reason = "fractions are dropped on purpose")]
#[expect(clippy::option_option, reason = "absent and malformed are different outcomes")]
fn seconds(claim: Option<&Value>) -> Option<Option<i128>> {
    match claim {
        None | Some(Value::Null) => Some(None),
        Some(claim) => {
            let time = claim.as_f64()? as i64;
            Some((time != 0).then_some(time.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_767_225_600;

    const TIMES: Times = Times {
        now: SystemTime::UNIX_EPOCH,
        skew: Duration::from_mins(1),
        lifetime: Duration::from_hours(1),
    };

    fn open_at_now(token: &str) -> Result<String, Fault> {
        open(token, Times { now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW), ..TIMES }, None)
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
            ("exp", json!(1e300), false),
            ("exp", json!(now + 3660), true),
            ("exp", json!(now + 3661), false),
            ("iat", json!(now - 3659), true),
            ("iat", json!(now - 3660), false),
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
