//! Keys that sign, of issuers, of the client, and of those who are neither.

use std::sync::Arc;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use serde_json::{Value, json};

use super::rig::CANARY;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Signs as `alg` says, whatever the header says.
pub(super) struct Signer {
    pub(super) alg: &'static str,
    pub(super) kid: String,
    /// Without `kid`; null for a secret.
    pub(super) jwk: Value,
    sign: Sign,
}

impl Signer {
    pub(super) fn es256(kid: &str) -> Arc<Self> {
        Self::ec("ES256", "P-256", kid, &ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub(super) fn es384(kid: &str) -> Arc<Self> {
        Self::ec("ES384", "P-384", kid, &ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn ec(
        alg: &'static str,
        crv: &str,
        kid: &str,
        algorithm: &'static EcdsaSigningAlgorithm,
    ) -> Arc<Self> {
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let jwk = json!({ "kty": "EC", "crv": crv, "x": encode(x), "y": encode(y) });
        let sign = move |message: &[u8]| key.sign(&SystemRandom::new(), message).unwrap();
        Self::new(alg, kid, jwk, move |message| sign(message).as_ref().to_vec())
    }

    fn rs256(kid: &str) -> Arc<Self> {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
        let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
        let jwk = json!({ "kty": "RSA", "n": encode(n), "e": encode(e) });
        Self::new("RS256", kid, jwk, move |message| {
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        })
    }

    /// HS256, HS384 or HS512 with any bytes.
    pub(super) fn hmac(alg: &'static str, secret: &[u8]) -> Arc<Self> {
        let algorithm = match alg {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        let key = hmac::Key::new(algorithm, secret);
        let sign = move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
        Self::new(alg, "", Value::Null, sign)
    }

    fn new(
        alg: &'static str,
        kid: &str,
        jwk: Value,
        sign: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let kid = if kid.is_empty() { String::new() } else { format!("{kid}-{CANARY}") };
        Arc::new(Self { alg, kid, jwk, sign: Box::new(sign) })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        (self.sign)(message)
    }

    /// As it stands in the key set of its issuer.
    pub(super) fn jwk_with(&self, more: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }

    pub(super) fn thumbprint(&self) -> String {
        thumbprint(&self.jwk)
    }
}

/// All keys of a test.
pub(super) struct Keys {
    /// Those of issuer A.
    pub(super) a: [Arc<Signer>; 3],
    /// Those of issuer B.
    pub(super) b: [Arc<Signer>; 2],
    /// What the token is bound to.
    pub(super) client: Arc<Signer>,
    /// Nobody's that anybody knows.
    pub(super) thief: Arc<Signer>,
}

impl Keys {
    pub(super) fn generate() -> Arc<Self> {
        Arc::new(Self {
            a: [Signer::es256("a-p256"), Signer::rs256("a-rsa"), Signer::es384("a-p384")],
            b: [Signer::es256("b-p256"), Signer::rs256("b-rsa")],
            client: Signer::es256("client"),
            thief: Signer::es256("thief"),
        })
    }

    /// The key sets of both issuers. Of A's keys, the RSA key names its algorithm.
    pub(super) fn jwks(&self) -> [Value; 2] {
        let [ec, rsa, p384] = &self.a;
        let rsa = rsa.jwk_with(&json!({ "alg": "RS256" }));
        let of_a = [ec.jwk_with(&json!({})), rsa, p384.jwk_with(&json!({}))];
        let of_b = self.b.each_ref().map(|key| key.jwk_with(&json!({})));
        [json!({ "keys": of_a }), json!({ "keys": of_b })]
    }
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// By a library, so that the server's own is not checked against itself.
pub(super) fn thumbprint(jwk: &Value) -> String {
    let jwk: Jwk = serde_json::from_value(jwk.clone()).unwrap();
    jwk.thumbprint(ThumbprintHash::SHA256).unwrap()
}
