//! Reads the payload of a TDF, as much of the format as tests need.
#![expect(clippy::expect_used, reason = "a TDF that cannot be read fails the test")]

use std::io::{Cursor, Read};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::Value;

/// Decrypts the payload of a TDF (a zip of `0.manifest.json` and `0.payload`, whose segments are
/// `nonce (12) || ciphertext || tag (16)` under AES-256-GCM).
///
/// # Panics
/// When the file is none, or does not decrypt under `dek`.
pub fn payload(tdf: &[u8], dek: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(tdf)).expect("a TDF is a zip");
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        archive.by_name(name).expect("a TDF has it").read_to_end(&mut bytes).expect("readable");
        bytes
    };
    let manifest: Value = serde_json::from_slice(&read("0.manifest.json")).expect("JSON");
    let encrypted = read("0.payload");
    let integrity = &manifest["encryptionInformation"]["integrityInformation"];
    let usual = integrity["encryptedSegmentSizeDefault"].as_u64();
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, dek).expect("an AES-256 key"));
    let (mut plain, mut rest) = (Vec::new(), encrypted.as_slice());
    for segment in integrity["segments"].as_array().expect("segments") {
        let size = segment["encryptedSegmentSize"].as_u64().or(usual).expect("a segment size");
        let (sealed, after) = rest.split_at(usize::try_from(size).expect("it fits"));
        rest = after;
        let (nonce, body) = sealed.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("12 bytes");
        let mut body = body.to_vec();
        let opened = key.open_in_place(nonce, Aad::empty(), &mut body).expect("it decrypts");
        plain.extend_from_slice(opened);
    }
    plain
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn golden_payloads_are_as_expected() {
        for golden in crate::golden::all() {
            let payload = super::payload(golden.tdf, &golden.dek);
            assert_eq!(payload.len() as u64, golden.plain_len, "{}", golden.name);
            assert_eq!(
                hex::encode(Sha256::digest(payload)),
                golden.plain_sha256,
                "{}",
                golden.name
            );
        }
    }
}
