//! The verifier of JSON Web Tokens by itself: algorithms, keys and kids.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kasbah_crypto::PrivateKeyParts;
use kasbah_kas::{JwtRules, JwtVerifier, TokenVerifier};
use serde_json::{Value, json};

use crate::harness::*;

const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "http://localhost:8080";

fn rules() -> JwtRules {
    JwtRules { issuer: ISSUER.into(), audience: AUDIENCE.into(), skew: Duration::from_secs(10) }
}

/// A key of an issuer.
struct Issuer {
    algorithm: Algorithm,
    parts: PrivateKeyParts,
}

impl Issuer {
    fn new(algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::ES256 => P256,
            Algorithm::ES384 => P384,
            _ => RSA,
        };
        Self { algorithm, parts: PrivateKeyParts::generate(kind).unwrap() }
    }

    fn pem(&self) -> String {
        self.parts.public_key().to_pem()
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk: Value = serde_json::from_str(&self.parts.public_key().to_jwk()).unwrap();
        jwk["kid"] = json!(kid);
        jwk
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        self.sign_as(self.algorithm, kid, claims)
    }

    fn sign_as(&self, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        let pem = self.parts.to_pem().unwrap();
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        encode(&header, claims, &key.unwrap()).unwrap()
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now() + 60, "iat": now()})
}

/// The sound claims with one of them changed; null takes it out.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

async fn accepts(verifier: &JwtVerifier, token: &str) -> bool {
    verifier.verify(&format!("Bearer {token}")).await.is_ok()
}

#[tokio::test]
async fn sound_tokens_are_accepted() {
    for algorithm in [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
    ] {
        let issuer = Issuer::new(algorithm);
        let verifier = JwtVerifier::from_pem(rules(), &issuer.pem()).unwrap();
        let token = issuer.sign(None, &claims());
        let caller = verifier.verify(&format!("Bearer {token}")).await.unwrap();
        assert_eq!(caller.subject, "alice");
        assert_eq!(verifier.verify(&format!("DPoP {token}")).await.unwrap(), caller);
        for claims in [
            with("aud", json!([AUDIENCE, "other"])),
            with("exp", json!(now() - 5)),
            with("nbf", json!(now() + 5)),
            with("iat", json!(now() + 5)),
            with("iat", Value::Null),
        ] {
            assert!(accepts(&verifier, &issuer.sign(None, &claims)).await, "{claims}");
        }
    }
}

#[tokio::test]
async fn a_token_without_sub_has_no_subject() {
    let issuer = Issuer::new(Algorithm::ES256);
    let verifier = JwtVerifier::from_pem(rules(), &issuer.pem()).unwrap();
    for sub in [Value::Null, json!(7)] {
        let token = issuer.sign(None, &with("sub", sub));
        let caller = verifier.verify(&format!("Bearer {token}")).await.unwrap();
        assert_eq!(caller.subject, "");
    }
}

#[tokio::test]
async fn signatures_that_do_not_fit_are_refused() {
    let issuer = Issuer::new(Algorithm::RS256);
    let verifier = JwtVerifier::from_pem(rules(), &issuer.pem()).unwrap();
    let stranger = Issuer::new(Algorithm::RS256);
    assert!(!accepts(&verifier, &stranger.sign(None, &claims())).await);
    assert!(!accepts(&verifier, &jws(&json!({"alg": "none"}), &claims())).await);
    let token = issuer.sign(None, &claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    assert!(!accepts(&verifier, message).await);
    assert!(!accepts(&verifier, &format!("{message}.")).await);
    assert!(!accepts(&verifier, &format!("{token}.{signature}")).await);
    let changed = issuer.sign(None, &with("sub", json!("mallory")));
    let (changed, _) = changed.rsplit_once('.').unwrap();
    assert!(!accepts(&verifier, &format!("{changed}.{signature}")).await);
    // The classic: the public key as an HMAC secret.
    let secret = EncodingKey::from_secret(issuer.pem().as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
    assert!(!accepts(&verifier, &token).await);
}

#[tokio::test]
async fn the_key_decides_on_the_algorithm() {
    let issuer = Issuer::new(Algorithm::RS256);
    let mut jwk = issuer.jwk("a");
    jwk["alg"] = json!("PS256");
    let jwks = json!({"keys": [jwk]}).to_string();
    let verifier = JwtVerifier::from_jwks(rules(), &jwks).unwrap();
    let token = |algorithm| issuer.sign_as(algorithm, Some("a"), &claims());
    assert!(accepts(&verifier, &token(Algorithm::PS256)).await);
    assert!(!accepts(&verifier, &token(Algorithm::RS256)).await);
    assert!(!accepts(&verifier, &token(Algorithm::PS512)).await);
}

#[tokio::test]
async fn the_kid_finds_the_key() {
    let (a, b) = (Issuer::new(Algorithm::RS256), Issuer::new(Algorithm::ES256));
    let jwks = json!({"keys": [a.jwk("a"), b.jwk("b")]}).to_string();
    let verifier = JwtVerifier::from_jwks(rules(), &jwks).unwrap();
    assert!(accepts(&verifier, &a.sign(Some("a"), &claims())).await);
    assert!(accepts(&verifier, &b.sign(Some("b"), &claims())).await);
    assert!(!accepts(&verifier, &a.sign(Some("b"), &claims())).await);
    assert!(!accepts(&verifier, &a.sign(Some("c"), &claims())).await);
    assert!(!accepts(&verifier, &a.sign(None, &claims())).await);
    let only = json!({"keys": [a.jwk("a")]}).to_string();
    let verifier = JwtVerifier::from_jwks(rules(), &only).unwrap();
    assert!(accepts(&verifier, &a.sign(None, &claims())).await);
    assert!(!accepts(&verifier, &a.sign(Some("b"), &claims())).await);
}
