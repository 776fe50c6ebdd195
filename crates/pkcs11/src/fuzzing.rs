//! The parser of stored keys, for fuzzers. It may neither panic nor hang.

use kasbah_trust::{Algorithm, Curve};

use crate::{
    record::{self, MAC_LEN, Record},
    template::Family,
};

/// A stored key, as base64 text. What is one is answered as it would be written.
pub fn record(text: &str) -> Option<String> {
    let read = Record::from_base64(text).ok()?;
    let algorithm = match read.family() {
        Family::Rsa => Algorithm::Rsa2048,
        Family::Ec => Algorithm::Ec(Curve::P256),
    };
    let fingerprint = read.fingerprint();
    let unsigned = Record::unsigned(algorithm, read.kid(), read.kek(), fingerprint, read.blob());
    let mac: &[u8; MAC_LEN] = read.mac().try_into().ok()?;
    Some(record::to_base64(&unsigned.ok()?, mac))
}
