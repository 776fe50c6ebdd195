//! Policy binding: HMAC-SHA256 of the policy text under the data key.
//!
//! The message is the base64 text of the policy exactly as sent, not the decoded JSON.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{CryptoError, Dek};

/// Length of a binding in bytes.
pub const BINDING_LEN: usize = 32;

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
        // 64 hexadecimal digits are 88 characters of base64; line ends may add a few.
        if hash.len() > 2 * BINDING_LEN * 2 {
            return Err(CryptoError);
        }
        let text: String = hash.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        let decoded = BASE64_STANDARD.decode(text).map_err(|_| CryptoError)?;
        let mut mac = [0; BINDING_LEN];
        match decoded.len() {
            BINDING_LEN => mac.copy_from_slice(&decoded),
            _ => hex::decode_to_slice(&decoded, &mut mac).map_err(|_| CryptoError)?,
        }
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
pub fn compute(dek: &Dek, policy: &str) -> Zeroizing<[u8; BINDING_LEN]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, dek.expose_secret());
    let tag = hmac::sign(&key, policy.as_bytes());
    let mut mac = Zeroizing::new([0; BINDING_LEN]);
    mac.copy_from_slice(tag.as_ref());
    mac
}
