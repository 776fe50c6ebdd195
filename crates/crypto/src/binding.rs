//! Policy binding: HMAC-SHA256 of the policy text under the data key.
//!
//! The message is the base64 text of the policy exactly as sent, not the decoded JSON.

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
        let _ = hash;
        todo!()
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
        let _ = computed;
        todo!()
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
    let _ = (dek, policy);
    todo!()
}
