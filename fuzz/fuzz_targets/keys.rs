#![no_main]

use kasbah_crypto::{PolicyBinding, PrivateKey, PublicKey};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = PublicKey::from_spki_der(bytes) {
        let again = PublicKey::from_pem(&key.to_pem()).expect("what is printed can be read");
        assert_eq!(again, key);
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = PublicKey::from_pem(text);
        let _ = PrivateKey::from_pem(text);
        let _ = PolicyBinding::parse(text);
    }
});
