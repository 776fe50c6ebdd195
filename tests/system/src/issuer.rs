//! An issuer of access tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::admin::ADMIN;

/// `iss` of its tokens.
pub const ISSUER: &str = "https://idp.example";
/// `aud` of its tokens.
pub const AUDIENCE: &str = "http://localhost:8080";

/// Signs with ES256.
pub struct Issuer {
    key: EncodingKey,
    point: Vec<u8>,
}

impl Issuer {
    /// An issuer with a fresh key.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).expect("a key");
        let key = EncodingKey::from_ec_der(document.as_ref());
        Self { key, point: pair.public_key().as_ref().to_vec() }
    }

    /// The key set that verifies its tokens.
    pub fn jwks(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (encode(&self.point[1..33]), encode(&self.point[33..]));
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": x, "y": y,
        }]})
    }

    /// An access token for `subject`, good for five minutes; [`ADMIN`] is in the group of
    /// administrators.
    pub fn token(&self, subject: &str) -> String {
        let roles: &[&str] = if subject == ADMIN { &["opentdf-admin"] } else { &[] };
        self.token_with(subject, &json!({ "realm_access": { "roles": roles } }))
    }

    /// An access token for `subject` with further claims, good for five minutes.
    ///
    /// # Panics
    /// When `more` is no object.
    pub fn token_with(&self, subject: &str, more: &Value) -> String {
        let now = now();
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k1".into());
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "azp": "tests", "iat": now,
            "exp": now + 300,
        });
        let more = more.as_object().expect("claims are an object");
        claims.as_object_mut().expect("it is one").extend(more.clone());
        self.sign(&header, &claims)
    }

    /// A compact JWS over any claims.
    ///
    /// # Panics
    /// When signing fails.
    pub fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.key).expect("signing works")
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds since 1970.
///
/// # Panics
/// When the clock is before that.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
