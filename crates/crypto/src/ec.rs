//! EC-wrap: ECDH, HKDF-SHA256 with salt SHA-256("TDF") and empty info, AES-256-GCM.
//!
//! A blob is `nonce (12) || ciphertext || tag (16)` with empty additional data; 60 bytes for a
//! 32-byte data key.

use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, UnparsedPublicKey},
    encoding::{AsDer, PublicKeyX509Der},
    hkdf::{self, HKDF_SHA256, Salt},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ParsedPublicKey,
        VerificationAlgorithm,
    },
};
use zeroize::Zeroizing;

use crate::{CryptoError, Curve, Dek, PublicKeyError, gcm};

/// SHA-256 of the ASCII bytes `TDF`, the HKDF salt.
pub const HKDF_SALT: [u8; 32] = [
    0xaa, 0x17, 0xcf, 0x44, 0x58, 0x5f, 0xe1, 0x5f, 0xd6, 0x34, 0xc2, 0x7b, 0x95, 0x12, 0xd8, 0x42,
    0xb4, 0x2a, 0xf1, 0xba, 0xc6, 0x17, 0x8d, 0x92, 0x16, 0x1e, 0xdb, 0x4e, 0x2a, 0xbf, 0x81, 0x97,
];

/// Length of the GCM nonce in front of a blob.
pub const NONCE_LEN: usize = aws_lc_rs::aead::NONCE_LEN;
/// Length of the GCM tag at the end of a blob.
pub const TAG_LEN: usize = gcm::TAG_LEN;

/// A point that was checked to lie on its curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcPublicKey {
    curve: Curve,
    /// Ends in the uncompressed point.
    spki: Box<[u8]>,
}

impl EcPublicKey {
    /// Reads a SEC 1 point, compressed or uncompressed.
    ///
    /// # Errors
    /// [`PublicKeyError::Malformed`] when it is no point of the curve.
    pub fn from_sec1(curve: Curve, point: &[u8]) -> Result<Self, PublicKeyError> {
        // The library would also take the hybrid form and a whole SubjectPublicKeyInfo.
        if !matches!(point.first(), Some(0x02..=0x04)) {
            return Err(PublicKeyError::Malformed);
        }
        // Of the library's two kinds of parsed key, only that for signatures can be written again.
        let key = ParsedPublicKey::new(ecdsa(curve), point);
        let key = key.map_err(|_| PublicKeyError::Malformed)?;
        let spki = key.as_der().map_err(|_| PublicKeyError::Malformed)?;
        Ok(Self { curve, spki: spki.as_ref().into() })
    }

    /// The curve.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// Uncompressed SEC 1 point, `04 || X || Y`.
    pub fn point(&self) -> &[u8] {
        &self.spki[self.spki.len() - (1 + 2 * self.curve.field_len())..]
    }

    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }
}

/// An EC private key in software, operated in constant time. No `Debug`, no `Clone`.
pub struct EcPrivateKey {
    key: agreement::PrivateKey,
    public: EcPublicKey,
}

impl EcPrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn generate(curve: Curve) -> Result<Self, CryptoError> {
        let key = agreement::PrivateKey::generate(ecdh(curve)).map_err(|_| CryptoError)?;
        Self::new(curve, key)
    }

    /// Takes a scalar, big-endian, as long as a field element.
    ///
    /// # Errors
    /// [`CryptoError`] when it is none of the curve.
    pub fn from_scalar(curve: Curve, scalar: &[u8]) -> Result<Self, CryptoError> {
        let key = agreement::PrivateKey::from_private_key(ecdh(curve), scalar)
            .map_err(|_| CryptoError)?;
        Self::new(curve, key)
    }

    fn new(curve: Curve, key: agreement::PrivateKey) -> Result<Self, CryptoError> {
        let public = key.compute_public_key().map_err(|_| CryptoError)?;
        let spki: PublicKeyX509Der<'_> = public.as_der().map_err(|_| CryptoError)?;
        let public = EcPublicKey { curve, spki: spki.as_ref().into() };
        Ok(Self { key, public })
    }

    /// The public half.
    pub fn public_key(&self) -> &EcPublicKey {
        &self.public
    }

    /// ECDH followed by HKDF.
    ///
    /// # Errors
    /// [`CryptoError`] when the curves differ or the point is refused.
    pub fn agree(&self, peer: &EcPublicKey) -> Result<WrapKey, CryptoError> {
        if peer.curve != self.public.curve {
            return Err(CryptoError);
        }
        let peer = UnparsedPublicKey::new(ecdh(peer.curve), peer.point());
        agreement::agree(&self.key, peer, CryptoError, WrapKey::derive)
    }

    pub(crate) fn inner(&self) -> &agreement::PrivateKey {
        &self.key
    }
}

fn ecdh(curve: Curve) -> &'static agreement::Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    }
}

fn ecdsa(curve: Curve) -> &'static dyn VerificationAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_ASN1,
        Curve::P384 => &ECDSA_P384_SHA384_ASN1,
        Curve::P521 => &ECDSA_P521_SHA512_ASN1,
    }
}

/// The AES-256-GCM key that both sides derive. No `Debug`, no `Clone`.
pub struct WrapKey(Zeroizing<[u8; 32]>);

impl WrapKey {
    /// Derives the key from an ECDH shared secret (the x-coordinate, fixed width).
    ///
    /// # Errors
    /// None in practice: HKDF-SHA256 yields up to 8160 bytes.
    pub fn derive(shared_secret: &[u8]) -> Result<Self, CryptoError> {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                32
            }
        }
        let mut key = Zeroizing::new([0; 32]);
        Salt::new(HKDF_SHA256, &HKDF_SALT)
            .extract(shared_secret)
            .expand(&[], Len)
            .and_then(|okm| okm.fill(key.as_mut()))
            .map_err(|_| CryptoError)?;
        Ok(Self(key))
    }

    /// The derived key as a data key itself, for agreements that wrap nothing.
    ///
    /// # Errors
    /// None in practice: 32 bytes are a data key.
    pub fn to_dek(&self) -> Result<Dek, CryptoError> {
        Dek::from_slice(self.0.as_ref())
    }

    /// Encrypts a data key under a random nonce into a blob.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn seal(&self, dek: &Dek) -> Result<Vec<u8>, CryptoError> {
        gcm::seal(&self.cipher()?, dek.expose_secret())
    }

    /// Decrypts a blob.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn open(&self, blob: &[u8]) -> Result<Dek, CryptoError> {
        Dek::from_slice(&gcm::open(&self.cipher()?, blob)?)
    }

    fn cipher(&self) -> Result<LessSafeKey, CryptoError> {
        let key = UnboundKey::new(&AES_256_GCM, self.0.as_ref()).map_err(|_| CryptoError)?;
        Ok(LessSafeKey::new(key))
    }
}
