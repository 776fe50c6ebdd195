use std::fmt;

use async_trait::async_trait;
use kasbah_crypto::{Dek, PolicyBinding, binding};

use crate::{Custody, Recipient, Result};

/// An unwrapped data key that never yields its bytes.
///
/// The only way on is [`ProtectedKey::verify_binding`]: what it returns can be exported, to a
/// recipient and to nothing else.
#[async_trait]
pub trait ProtectedKey: fmt::Debug + Send + Sync {
    /// Checks that the key is bound to `policy` (base64 text exactly as sent).
    ///
    /// # Errors
    /// `Decrypt` when it is not.
    async fn verify_binding(
        self: Box<Self>,
        policy: &str,
        binding: &PolicyBinding,
    ) -> Result<Box<dyn VerifiedKey>>;
}

/// An unwrapped data key whose policy binding was checked.
#[async_trait]
pub trait VerifiedKey: fmt::Debug + Send + Sync {
    /// Re-encrypts the key to `recipient`.
    ///
    /// # Errors
    /// `Unsupported` when the recipient was opened by another manager's device.
    async fn export(self: Box<Self>, recipient: &Recipient) -> Result<RewrappedKey>;
}

/// A data key re-encrypted for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewrappedKey {
    /// RSA-OAEP ciphertext, or `nonce || ciphertext || tag` for an EC client.
    pub wrapped: Vec<u8>,
    /// What its custody was on the way.
    pub custody: Custody,
}

/// A [`ProtectedKey`] in host memory, for managers that can do no better.
pub struct SoftwareKey {
    dek: Dek,
    custody: Custody,
}

impl SoftwareKey {
    /// Protects a data key that a manager of this `custody` recovered.
    pub fn new(dek: Dek, custody: Custody) -> Self {
        Self { dek, custody }
    }
}

#[async_trait]
impl ProtectedKey for SoftwareKey {
    async fn verify_binding(
        self: Box<Self>,
        policy: &str,
        binding: &PolicyBinding,
    ) -> Result<Box<dyn VerifiedKey>> {
        binding.verify(binding::compute(&self.dek, policy).as_ref())?;
        Ok(Box::new(VerifiedSoftwareKey(*self)))
    }
}

struct VerifiedSoftwareKey(SoftwareKey);

#[async_trait]
impl VerifiedKey for VerifiedSoftwareKey {
    async fn export(self: Box<Self>, recipient: &Recipient) -> Result<RewrappedKey> {
        Ok(RewrappedKey { wrapped: recipient.encrypt(&self.0.dek)?, custody: self.0.custody })
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey").field("custody", &self.custody).finish_non_exhaustive()
    }
}

impl fmt::Debug for VerifiedSoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifiedSoftwareKey").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(SoftwareKey: Clone, PartialEq);
    static_assertions::assert_not_impl_any!(VerifiedSoftwareKey: Clone, PartialEq);

    #[test]
    fn debug_shows_no_secret() {
        let dek = Dek::from_slice(&[0xab; 32]).unwrap();
        let key = VerifiedSoftwareKey(SoftwareKey::new(dek, Custody::SOFTWARE));
        let printed = format!("{key:?}");
        assert!(printed.contains("Transient"), "{printed}");
        assert!(!printed.contains("171") && !printed.contains("abab"), "{printed}");
    }
}
