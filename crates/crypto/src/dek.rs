use secrecy::{ExposeSecret, SecretSlice};
use zeroize::Zeroizing;

use crate::CryptoError;

/// A data encryption key: 16, 24 or 32 secret bytes, wiped on drop.
pub struct Dek(SecretSlice<u8>);

impl Dek {
    /// Copies the bytes of a data key; the caller wipes its own.
    ///
    /// # Errors
    /// [`CryptoError`] unless there are 16, 24 or 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, CryptoError> {
        if !matches!(bytes.len(), 16 | 24 | 32) {
            return Err(CryptoError);
        }
        Ok(Self(SecretSlice::from(bytes.to_vec())))
    }

    /// A random 32-byte data key.
    ///
    /// # Errors
    /// [`CryptoError`] when the system's random source fails.
    pub fn generate() -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| CryptoError)?;
        Self::from_slice(bytes.as_ref())
    }

    /// The secret bytes.
    pub fn expose_secret(&self) -> &[u8] {
        self.0.expose_secret()
    }
}
