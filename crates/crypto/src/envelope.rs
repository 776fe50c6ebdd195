//! Private keys wrapped by a root key: `nonce (12) || AES-GCM ciphertext || tag (16)`, empty
//! additional data, the layout of OpenTDF's `private_key_ctx.wrapped_key` before base64.

use zeroize::Zeroizing;

use crate::CryptoError;

/// An AES key of 16, 24 or 32 bytes. No `Debug`, no `Clone`.
pub struct RootKey(());

impl RootKey {
    /// Parses hexadecimal text.
    ///
    /// # Errors
    /// [`CryptoError`] unless it is 16, 24 or 32 bytes of hex.
    pub fn from_hex(text: &str) -> Result<Self, CryptoError> {
        let _ = text;
        todo!()
    }

    /// Encrypts under a random nonce.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let _ = plaintext;
        todo!()
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`CryptoError`] for every reason alike.
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let _ = sealed;
        todo!()
    }
}
