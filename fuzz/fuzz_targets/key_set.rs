//! A key set as an issuer publishes it.
#![no_main]

use kasbah_auth::{IssuerSettings, KeySource, TokenRules, Tokens};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let settings = IssuerSettings {
        issuer: "https://idp.example".to_owned(),
        audience: "kas".to_owned(),
        algorithms: Vec::new(),
        keys: KeySource::Jwks(text.to_owned()),
    };
    let _ = Tokens::new(vec![settings], TokenRules::default());
});
