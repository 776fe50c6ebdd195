//! An access token, a proof of possession or a signed request token, whoever signed it.
#![no_main]

use std::sync::LazyLock;

use kasbah_auth::{Jws, VerifyingKey};

static KEY: LazyLock<VerifyingKey> = LazyLock::new(|| {
    let jwk = serde_json::json!({
        "kty": "EC", "crv": "P-256", "x": "Jh7701UM8GjvAT7XNmujL11v5Ve0sqvOit5Yy6FopV4",
        "y": "F4igsppWpqvsQITAyWvT3LymtQfzXb6p6YVwhHnYvck",
    });
    VerifyingKey::from_jwk(jwk.as_object().unwrap()).unwrap()
});

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(jws) = Jws::parse(text) else { return };
    assert!(jws.verify(&KEY).is_err(), "nobody has the private key");
    // The key that a proof brings along.
    if let Some(jwk) = jws.header().get("jwk").and_then(|jwk| jwk.as_object())
        && let Ok(key) = VerifyingKey::from_jwk(jwk)
    {
        let _ = jws.verify(&key);
    }
});
