//! AES key wrap (RFC 3394), by which a data key leaves a token when its custody may be transient.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use zeroize::Zeroizing;

use crate::{CryptoError, Dek};

/// Bytes that wrapping adds.
pub const OVERHEAD: usize = 8;

/// Unwraps a data key of 16, 24 or 32 bytes; `wrapped` is 8 bytes longer.
///
/// # Errors
/// [`CryptoError`] for every reason alike.
pub fn unwrap(kek: &[u8; 32], wrapped: &[u8]) -> Result<Dek, CryptoError> {
    let mut dek = Zeroizing::new([0; 32]);
    let kek = AesKek::new(&AES_256, kek).map_err(|_| CryptoError)?;
    let bytes = kek.unwrap(wrapped, dek.as_mut()).map_err(|_| CryptoError)?;
    Dek::from_slice(bytes)
}
