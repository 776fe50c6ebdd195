//! Mechanism parameters of TDF key wrapping (PKCS#11 3.1, sections 6.1, 6.3, 6.13 and 6.63).

use cryptoki::{
    error::Error,
    mechanism::{
        Mechanism, MechanismType,
        aead::GcmParams,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
        hkdf::{HkdfParams, HkdfSalt},
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
};
use kasbah_crypto::ec::{EcPublicKey, HKDF_SALT, TAG_LEN};

/// Outlives every parameter block: the crate does not tie a block to its salt.
static SALT: [u8; 32] = HKDF_SALT;

/// RSA-OAEP with SHA-1, MGF1-SHA-1 and the empty label in its only portable form, a NULL pointer.
pub(crate) fn oaep() -> Mechanism<'static> {
    let source = PkcsOaepSource::empty();
    PkcsOaepParams::new(MechanismType::SHA1, PkcsMgfType::MGF1_SHA1, source).into()
}

/// ECDH without a key derivation function; the peer's point goes in uncompressed and bare.
pub(crate) fn ecdh(peer: &EcPublicKey) -> Mechanism<'_> {
    Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer.point()))
}

/// HKDF-SHA256. The info is empty but present: without it the token would not expand at all.
pub(crate) fn hkdf() -> Mechanism<'static> {
    let salt = Some(HkdfSalt::Data(&SALT));
    Mechanism::HkdfDerive(HkdfParams::new(MechanismType::SHA256, salt, Some(&[])))
}

/// AES-GCM with a full tag and no additional data.
pub(crate) fn gcm(nonce: &mut [u8]) -> Result<Mechanism<'_>, Error> {
    let tag_bits = (8 * TAG_LEN as u64).into();
    Ok(Mechanism::AesGcm(GcmParams::new(nonce, &[], tag_bits)?))
}
