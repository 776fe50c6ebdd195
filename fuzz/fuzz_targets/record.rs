#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use kasbah_pkcs11::fuzzing::record;

libfuzzer_sys::fuzz_target!(
    init: assert!(record(&STANDARD.encode(sound())).is_some(), "what is sound is read"),
    |bytes: &[u8]| {
        check(&STANDARD.encode(bytes));
        check(&String::from_utf8_lossy(bytes));
        // What follows the first byte replaces a part of a sound one, from that byte on.
        if let [at, part @ ..] = bytes {
            let mut changed = sound();
            let at = usize::from(*at).min(changed.len());
            changed.splice(at..changed.len().min(at + part.len()), part.iter().copied());
            check(&STANDARD.encode(changed));
        }
    }
);

fn check(text: &str) {
    if let Some(again) = record(text) {
        assert_eq!(again, text);
    }
}

/// The record of the EC key `e1`, wrapped by `kek`.
fn sound() -> Vec<u8> {
    [&b"KPW1\x02\0\x02e1\0\x03kek"[..], &[7; 32], &[0, 0, 0, 80], &[5; 80], &[9; 32]].concat()
}
