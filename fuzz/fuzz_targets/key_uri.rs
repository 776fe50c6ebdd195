#![no_main]

use kasbah_pkcs11::uri::KeyUri;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(uri) = text.parse::<KeyUri>() {
        let again: KeyUri = uri.to_string().parse().expect("what is printed can be read");
        assert_eq!(again, uri);
    }
});
