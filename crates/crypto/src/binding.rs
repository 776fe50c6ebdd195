//! Policy binding: HMAC-SHA256 of the policy text under the data key.
//!
//! The message is the base64 text of the policy exactly as sent, not the decoded JSON.

use aws_lc_rs::hmac;
use base64ct::{Base64, Encoding};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{CryptoError, Dek};

/// Length of a binding in bytes.
pub const BINDING_LEN: usize = 32;
const HEX_LEN: usize = 2 * BINDING_LEN;
/// Base64 of [`HEX_LEN`] bytes.
const BASE64_LEN: usize = HEX_LEN.div_ceil(3) * 4;

/// A binding as a client claims it; checked against the data key by whoever holds that.
#[derive(Debug, Clone)]
pub struct PolicyBinding([u8; BINDING_LEN]);

impl PolicyBinding {
    /// Parses the `hash` of a key access object: standard padded base64 (CR and LF tolerated) of
    /// either the 32 bytes of the MAC or its 64 hexadecimal digits in either case.
    ///
    /// # Errors
    /// [`CryptoError`] for anything else.
    pub fn parse(hash: &str) -> Result<Self, CryptoError> {
        let mut base64 = [0; BASE64_LEN];
        let mut base64_len = 0;
        for byte in hash.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
            *base64.get_mut(base64_len).ok_or(CryptoError)? = byte;
            base64_len += 1;
        }
        let mut decoded = [0; BASE64_LEN];
        let decoded =
            Base64::decode(&base64[..base64_len], &mut decoded).map_err(|_| CryptoError)?;
        if let Ok(mac) = decoded.try_into() {
            return Ok(Self(mac));
        }
        let mut mac = [0; BINDING_LEN];
        hex::decode_to_slice(decoded, &mut mac).map_err(|_| CryptoError)?;
        Ok(Self(mac))
    }

    /// The claimed MAC.
    pub fn as_bytes(&self) -> &[u8; BINDING_LEN] {
        &self.0
    }

    /// Compares with a computed MAC in constant time.
    ///
    /// # Errors
    /// [`CryptoError`] when they differ.
    pub fn verify(&self, computed: &[u8]) -> Result<(), CryptoError> {
        bool::from(self.0.as_slice().ct_eq(computed)).then_some(()).ok_or(CryptoError)
    }
}

impl From<[u8; BINDING_LEN]> for PolicyBinding {
    fn from(mac: [u8; BINDING_LEN]) -> Self {
        Self(mac)
    }
}

/// Computes the binding of `policy` under `dek`. It is key material: whoever learns it can bind
/// the same data key to that policy.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "fails for a short buffer only, and its length is a constant"
)]
pub fn compute(dek: &Dek, policy: &str) -> Zeroizing<[u8; BINDING_LEN]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, dek.expose_secret());
    let mut mac = Zeroizing::new([0; BINDING_LEN]);
    hmac::sign_to_buffer(&key, policy.as_bytes(), mac.as_mut()).expect("32 bytes hold the MAC");
    mac
}
