//! Private keys wrapped by a root key: `nonce (12) || AES-GCM ciphertext || tag (16)`, empty
//! additional data, the layout of OpenTDF's `private_key_ctx.wrapped_key` before base64.

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

use crate::{CryptoError, gcm};

/// An AES key of 16, 24 or 32 bytes. No `Debug`, no `Clone`.
pub struct RootKey(LessSafeKey);

impl RootKey {
    /// Parses hexadecimal text.
    ///
    /// # Errors
    /// [`CryptoError`] unless it is 16, 24 or 32 bytes of hex.
    pub fn from_hex(text: &str) -> Result<Self, CryptoError> {
        let bytes = Zeroizing::new(hex::decode(text.trim()).map_err(|_| CryptoError)?);
        let algorithm = match bytes.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return Err(CryptoError),
        };
        let key = UnboundKey::new(algorithm, &bytes).map_err(|_| CryptoError)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts under a random nonce.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        gcm::seal(&self.0, plaintext)
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        gcm::open(&self.0, sealed)
    }
}
