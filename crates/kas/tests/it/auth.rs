//! Access tokens: one property off is one too many.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use kasbah_kas::{JwtRules, JwtVerifier};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{
    OPEN_POLICY, RSA, Server, Session, body, dek, entry, kao, key, now, request, srt,
};

struct Issuer {
    key: EncodingKey,
    point: Vec<u8>,
}

impl Issuer {
    fn new() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        Self { key: EncodingKey::from_ec_der(document.as_ref()), point }
    }

    fn jwks(&self, kid: &str) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig",
            "x": encode(&self.point[1..33]), "y": encode(&self.point[33..]),
        }]})
        .to_string()
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid.map(Into::into);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

fn claims() -> Value {
    json!({ "iss": "https://idp.example", "aud": ["other", "kas"], "sub": "alice",
            "iat": now(), "exp": now() + 300 })
}

async fn server(issuer: &Issuer) -> (Server, String) {
    let rules = JwtRules {
        issuer: "https://idp.example".into(),
        audience: "kas".into(),
        skew: Duration::from_mins(1),
    };
    let verifier = JwtVerifier::from_jwks(rules, &issuer.jwks("k1")).unwrap();
    let key = key("r1", RSA);
    let kao = kao("k", &key, &dek(), OPEN_POLICY);
    let body = body(&Session::new(RSA).public_key(), &[entry("p", OPEN_POLICY, &[&kao])]);
    let server = Server::with(vec![key], |builder| builder.verifier(Arc::new(verifier))).await;
    (server, srt(&body))
}

async fn outcome(server: &Server, srt: &str, authorization: Option<&str>) -> (Code, String) {
    let mut request = request(srt);
    request.metadata_mut().remove("authorization");
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    match server.send(request).await {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

#[tokio::test]
async fn good_tokens_are_accepted_under_both_schemes() {
    let issuer = Issuer::new();
    let (server, srt) = server(&issuer).await;
    for kid in [Some("k1"), None] {
        let token = issuer.sign(kid, &claims());
        for scheme in ["Bearer", "DPoP"] {
            let header = format!("{scheme} {token}");
            assert_eq!(outcome(&server, &srt, Some(&header)).await.0, Code::Ok, "{kid:?} {scheme}");
        }
    }
    let mut late = claims();
    late["exp"] = json!(now() - 30);
    let header = format!("Bearer {}", issuer.sign(Some("k1"), &late));
    assert_eq!(outcome(&server, &srt, Some(&header)).await.0, Code::Ok, "within the skew");
}

#[tokio::test]
async fn one_wrong_claim_is_enough() {
    let issuer = Issuer::new();
    let (server, srt) = server(&issuer).await;
    for (name, value) in [
        ("iss", json!("https://idp.example/")),
        ("iss", json!(["https://idp.example"])),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("exp", json!(now() - 90)),
        ("exp", Value::Null),
        ("exp", json!("tomorrow")),
        ("nbf", json!(now() + 90)),
        ("iat", json!(now() + 90)),
        ("cnf", json!({ "jkt": "x" })),
    ] {
        let mut claims = claims();
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
        let header = format!("Bearer {}", issuer.sign(Some("k1"), &claims));
        let refused = (Code::Unauthenticated, "unauthenticated".to_owned());
        assert_eq!(outcome(&server, &srt, Some(&header)).await, refused, "{name}: {value}");
    }
}

#[tokio::test]
async fn signatures_and_headers_are_checked() {
    let issuer = Issuer::new();
    let (server, srt) = server(&issuer).await;
    let good = issuer.sign(Some("k1"), &claims());
    let parts: Vec<_> = good.split('.').collect();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let with_header = |header: Value| format!("{}.{}.{}", part(header), parts[1], parts[2]);
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(),
        &EncodingKey::from_secret(&issuer.point),
    );
    let mut flipped = good.clone();
    let last = if flipped.ends_with('A') { 'B' } else { 'A' };
    flipped.replace_range(good.len() - 4..good.len() - 3, &last.to_string());
    for token in [
        Issuer::new().sign(Some("k1"), &claims()),
        issuer.sign(Some("k2"), &claims()),
        hmac.unwrap(),
        with_header(json!({ "alg": "none", "kid": "k1" })),
        with_header(json!({ "alg": "RS256", "kid": "k1" })),
        format!("{}.{}.", part(json!({ "alg": "none" })), parts[1]),
        flipped,
        parts[..2].join("."),
        format!("{good}.x"),
        "x".repeat(9000),
    ] {
        let header = format!("Bearer {token}");
        let refused = (Code::Unauthenticated, "unauthenticated".to_owned());
        assert_eq!(outcome(&server, &srt, Some(&header)).await, refused, "{token}");
    }
    for header in ["", "Bearer", "Bearer ", "bearer x", &format!("Basic {good}"), &good] {
        let (code, _) = outcome(&server, &srt, Some(header)).await;
        assert_eq!(code, Code::Unauthenticated, "{header}");
    }
    let missing = (Code::Unauthenticated, "missing authorization header".to_owned());
    assert_eq!(outcome(&server, &srt, None).await, missing);
}

#[test]
fn key_sets_must_tell_their_keys_apart() {
    let rules = || JwtRules { issuer: "i".into(), audience: "a".into(), skew: Duration::ZERO };
    let (one, two) = (Issuer::new(), Issuer::new());
    let join = |a: &str, b: &str| {
        let (a, b): (Value, Value) =
            (serde_json::from_str(a).unwrap(), serde_json::from_str(b).unwrap());
        json!({ "keys": [a["keys"][0], b["keys"][0]] }).to_string()
    };
    assert!(JwtVerifier::from_jwks(rules(), &join(&one.jwks("a"), &two.jwks("b"))).is_ok());
    let no_kid = one.jwks("a").replace("\"kid\":\"a\",", "");
    for jwks in [
        "",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#,
        &join(&one.jwks("a"), &two.jwks("a")),
        &join(&no_kid, &two.jwks("b")),
        &one.jwks("a").replace("\"sig\"", "\"enc\""),
    ] {
        assert!(JwtVerifier::from_jwks(rules(), jwks).is_err(), "{jwks}");
    }
}
