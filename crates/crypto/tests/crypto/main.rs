//! Behaviour of the crate as its users see it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests, their helpers included")]

mod interop;
mod private_key;
mod properties;
mod public_key;
mod secrets;
mod vectors;
mod wycheproof;

use kasbah_crypto::{Algorithm, Dek, PrivateKey, PrivateKeyParts};

/// 00, 01, ..., 1f: the data key of the published vectors.
fn sample_dek() -> Dek {
    Dek::from_slice(&std::array::from_fn::<u8, 32, _>(|i| u8::try_from(i).unwrap())).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn parts(algorithm: Algorithm) -> PrivateKeyParts {
    PrivateKeyParts::generate(algorithm).unwrap()
}

fn private_key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::generate(algorithm).unwrap()
}
