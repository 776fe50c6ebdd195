//! A client that proves that access tokens are its own (RFC 9449).
#![expect(clippy::expect_used, reason = "a fixture that cannot be made fails the test")]

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::{self, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A P-256 key that signs proofs, and signed request tokens.
#[derive(Debug)]
pub struct ProofSigner {
    key: EcdsaKeyPair,
}

impl ProofSigner {
    /// A fresh key.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { key }
    }

    /// Its public key (RFC 7517).
    pub fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })
    }

    /// RFC 7638 thumbprint, base64url: `cnf.jkt` of tokens that are bound to it.
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let (x, y) = (&jwk["x"], &jwk["y"]);
        encode(&Sha256::digest(format!(r#"{{"crv":"P-256","kty":"EC","x":{x},"y":{y}}}"#)))
    }

    /// Claims of a proof for one request with `access_token`.
    ///
    /// # Panics
    /// When the system has no randomness or no time.
    pub fn claims(&self, method: &str, url: &str, access_token: &str) -> Value {
        let mut jti = [0; 16];
        rand::fill(&mut jti).expect("randomness");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        json!({
            "jti": hex::encode(jti), "htm": method, "htu": url, "iat": now.as_secs(),
            "ath": encode(&Sha256::digest(access_token)),
        })
    }

    /// A proof for one request with `access_token`.
    pub fn proof(&self, method: &str, url: &str, access_token: &str) -> String {
        self.proof_of(&self.claims(method, url, access_token))
    }

    /// A proof that says `claims`.
    pub fn proof_of(&self, claims: &Value) -> String {
        self.sign(&json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk() }), claims)
    }

    /// A compact JWS, ES256 whatever the header says.
    ///
    /// # Panics
    /// When signing fails.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

impl Default for ProofSigner {
    fn default() -> Self {
        Self::new()
    }
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
