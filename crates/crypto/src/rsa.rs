//! RSAES-OAEP with SHA-1 for label hash and MGF1 and an empty label (RFC 8017, section 7.1), the
//! `wrapped` form of a data key.

use crate::{CryptoError, Dek, PublicKeyError};

/// An RSA public key that passed the host-side checks: 2048 to 8192 bits, odd modulus, odd
/// exponent from 65537 to 2^64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsaPublicKey {
    modulus: Box<[u8]>,
    exponent: Box<[u8]>,
}

impl RsaPublicKey {
    /// Checks the two numbers (unsigned big-endian; leading zeros are dropped).
    ///
    /// # Errors
    /// [`PublicKeyError::Refused`] when a token could not safely be given this key.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        let _ = (modulus, exponent);
        todo!()
    }

    /// Unsigned big-endian, no leading zero.
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// Unsigned big-endian, no leading zero.
    pub fn exponent(&self) -> &[u8] {
        &self.exponent
    }

    /// Size of the modulus in bits.
    pub fn bits(&self) -> usize {
        todo!()
    }

    /// Encrypts a data key; the result is as long as the modulus.
    ///
    /// # Errors
    /// [`CryptoError`] when the library refuses the key.
    pub fn encrypt(&self, dek: &Dek) -> Result<Vec<u8>, CryptoError> {
        let _ = dek;
        todo!()
    }
}

/// An RSA private key in software, operated in constant time. No `Debug`, no `Clone`.
pub struct RsaPrivateKey(());

impl RsaPrivateKey {
    /// Decrypts a data key.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn decrypt(&self, ciphertext: &[u8]) -> Result<Dek, CryptoError> {
        let _ = ciphertext;
        todo!()
    }

    /// The public half.
    pub fn public_key(&self) -> &RsaPublicKey {
        todo!()
    }
}
