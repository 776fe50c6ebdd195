#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_platform::key_details;
use kasbah_proto::policy::{AsymmetricKey, KasKey, PublicKeyCtx};
use prost::Message;

libfuzzer_sys::fuzz_target!(
    init: assert!(matches!(key_details(&sound()), Ok(Some(_))), "what is sound is read"),
    |bytes: &[u8]| {
        if let Ok(key) = KasKey::decode(bytes) {
            read(&key);
        }
        let mut key = sound();
        if key.merge(bytes).is_ok() {
            read(&key);
        }
    }
);

fn read(key: &KasKey) {
    if let Ok(Some(details)) = key_details(key) {
        assert_eq!(details.public_key.algorithm(), Some(details.algorithm));
    }
}

/// Fuzzed bytes change it field by field.
fn sound() -> KasKey {
    let pem = include_str!("../../crates/crypto/tests/crypto/data/p256.pem");
    KasKey {
        kas_uri: "https://kas.example".to_owned(),
        key: Some(AsymmetricKey {
            key_id: "e1".to_owned(),
            key_algorithm: 3,
            key_mode: 3,
            key_status: 1,
            public_key_ctx: Some(PublicKeyCtx { pem: STANDARD.encode(pem) }),
            ..AsymmetricKey::default()
        }),
        ..KasKey::default()
    }
}
