//! EC-wrap: ECDH, HKDF-SHA256 with salt SHA-256("TDF") and empty info, AES-256-GCM.
//!
//! A blob is `nonce (12) || ciphertext || tag (16)` with empty additional data; 60 bytes for a
//! 32-byte data key.

use zeroize::Zeroizing;

use crate::{CryptoError, Curve, Dek, PublicKeyError};

/// SHA-256 of the ASCII bytes `TDF`, the HKDF salt.
pub const HKDF_SALT: [u8; 32] = [0; 32];

/// Length of the GCM nonce in front of a blob.
pub const NONCE_LEN: usize = 12;
/// Length of the GCM tag at the end of a blob.
pub const TAG_LEN: usize = 16;

/// A point that was checked to lie on its curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcPublicKey {
    curve: Curve,
    point: Box<[u8]>,
}

impl EcPublicKey {
    /// Reads a SEC 1 point, compressed or uncompressed.
    ///
    /// # Errors
    /// [`PublicKeyError::Malformed`] when it is no point of the curve.
    pub fn from_sec1(curve: Curve, point: &[u8]) -> Result<Self, PublicKeyError> {
        let _ = (curve, point);
        todo!()
    }

    /// The curve.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// Uncompressed SEC 1 point, `04 || X || Y`.
    pub fn point(&self) -> &[u8] {
        &self.point
    }
}

/// An EC private key in software, operated in constant time. No `Debug`, no `Clone`.
pub struct EcPrivateKey(());

impl EcPrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn generate(curve: Curve) -> Result<Self, CryptoError> {
        let _ = curve;
        todo!()
    }

    /// The public half.
    pub fn public_key(&self) -> &EcPublicKey {
        todo!()
    }

    /// ECDH followed by HKDF.
    ///
    /// # Errors
    /// [`CryptoError`] when the curves differ or the point is refused.
    pub fn agree(&self, peer: &EcPublicKey) -> Result<WrapKey, CryptoError> {
        let _ = peer;
        todo!()
    }
}

/// The AES-256-GCM key that both sides derive. No `Debug`, no `Clone`.
pub struct WrapKey(Zeroizing<[u8; 32]>);

impl WrapKey {
    /// Derives the key from an ECDH shared secret (the x-coordinate, fixed width).
    pub fn derive(shared_secret: &[u8]) -> Self {
        let _ = shared_secret;
        todo!()
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
        let _ = (dek, &self.0);
        todo!()
    }

    /// Decrypts a blob.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn open(&self, blob: &[u8]) -> Result<Dek, CryptoError> {
        let _ = blob;
        todo!()
    }
}
