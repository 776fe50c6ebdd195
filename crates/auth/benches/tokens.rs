//! Verifying an access token, anew and remembered, beside the library's verification of its
//! signature, in one run.
//!
//! `cargo bench -p kasbah-auth --bench tokens`
#![expect(clippy::expect_used, reason = "a benchmark that cannot be prepared has no figures")]

use std::{
    hint::black_box,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{Criterion, criterion_group, criterion_main};
use kasbah_auth::{IssuerSettings, KeySource, TokenRules, TokenVerifier, Tokens};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

const ISSUER: &str = "https://idp.example/realms/opentdf";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Header and claims as a provider of `OpenID` Connect writes them.
fn signed(algorithm: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "k" });
    let claims = json!({
        "iss": ISSUER, "aud": ["kasbah", "account"], "sub": "f0b9a8c4-3d0c-4b7b-9c3e-0d6f3a1f2b10",
        "iat": now, "exp": now + 3600, "jti": "a4c1e1ce-52b4-4a05-8c8b-3f1f4bb6d0a7",
        "azp": "opentdf-client", "scope": "openid profile email", "preferred_username": "alice",
        "realm_access": { "roles": ["opentdf-standard", "offline_access", "uma_authorization"] },
    });
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

fn tokens(jwk: &Value, cache_entries: usize) -> Tokens {
    let issuer = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: "kasbah".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(json!({ "keys": [jwk] }).to_string()),
    };
    let rules = TokenRules { cache_entries, ..TokenRules::default() };
    Tokens::new(vec![issuer], rules).expect("settings")
}

fn compare(
    c: &mut Criterion,
    algorithm: &str,
    jwk: &Value,
    signed: &str,
    signature: &[u8],
    raw: &UnparsedPublicKey<Vec<u8>>,
) {
    let token = format!("{signed}.{}", encode(signature));
    let runtime: Runtime = Builder::new_current_thread().build().expect("a runtime");
    let mut group = c.benchmark_group(algorithm);
    for (name, entries) in [("anew", 0), ("remembered", 1)] {
        let tokens = tokens(jwk, entries);
        runtime.block_on(tokens.verify(&token)).expect("a good token");
        group.bench_function(name, |b| {
            b.iter(|| runtime.block_on(tokens.verify(black_box(&token))).is_ok());
        });
    }
    raw.verify(signed.as_bytes(), signature).expect("a good signature");
    group.bench_function("signature alone, library", |b| {
        b.iter(|| raw.verify(black_box(signed.as_bytes()), signature).is_ok());
    });
    group.finish();
}

fn rs256(c: &mut Criterion) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let key = pair.public_key();
    let jwk = json!({
        "kty": "RSA", "kid": "k",
        "n": encode(key.modulus().big_endian_without_leading_zero()),
        "e": encode(key.exponent().big_endian_without_leading_zero()),
    });
    let signed = signed("RS256");
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("a signature");
    let raw = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.as_ref().to_vec());
    compare(c, "RS256", &jwk, &signed, &signature, &raw);
}

fn es256(c: &mut Criterion) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref().to_vec();
    let (x, y) = point[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encode(x), "y": encode(y) });
    let signed = signed("ES256");
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    let raw = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    compare(c, "ES256", &jwk, &signed, signature.as_ref(), &raw);
}

criterion_group!(benches, rs256, es256);
criterion_main!(benches);
