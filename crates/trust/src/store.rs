use std::fmt;

use async_trait::async_trait;

use crate::{Algorithm, Deadline, KeyDetails, KeyId, KeyMode, PrivateKeyRef, PublicKey, Result};

/// The part of a manager that makes keys and knows which it holds; see
/// [`crate::KeyManager::key_store`].
#[async_trait]
pub trait KeyStore: fmt::Debug + Send + Sync {
    /// Makes a key pair named `kid`: kept in the device for `Remote`, or handed out wrapped by a
    /// key of the device for `ProviderRootKey`.
    ///
    /// # Errors
    /// `Exists` when the device holds a key of this name, with nothing changed; `Unsupported` for
    /// a mode or algorithm it cannot make.
    async fn generate(
        &self,
        kid: &KeyId,
        algorithm: Algorithm,
        mode: KeyMode,
        deadline: Deadline,
    ) -> Result<NewKey>;

    /// Whether anything is stored under `kid`, be it half a key.
    ///
    /// # Errors
    /// `Unavailable` when the device cannot be asked.
    async fn holds(&self, kid: &KeyId, deadline: Deadline) -> Result<bool>;

    /// Every key in the device, halves of an interrupted [`KeyStore::generate`] included.
    ///
    /// # Errors
    /// `Unavailable` when the device cannot be asked.
    async fn inventory(&self, deadline: Deadline) -> Result<Vec<StoredKey>>;

    /// Destroys what is stored under `kid`, both halves.
    ///
    /// # Errors
    /// `NotFound` when nothing is.
    async fn destroy(&self, kid: &KeyId, deadline: Deadline) -> Result<()>;

    /// Wraps the stored private key of `key` again, by the wrapping key named `wrapping_key`.
    ///
    /// # Errors
    /// `Unsupported` when the manager stores no wrapped keys; `Decrypt` when the stored one does
    /// not open.
    async fn wrap_again(
        &self,
        key: &KeyDetails,
        wrapping_key: &str,
        deadline: Deadline,
    ) -> Result<PrivateKeyRef>;
}

/// A key that was just made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The public part.
    pub public_key: PublicKey,
    /// What to register, so that the manager finds the private part.
    pub private_key: PrivateKeyRef,
}

/// A key in a device.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Its name there.
    pub kid: KeyId,
    /// What it serves; `None` for a key that no KAS algorithm fits.
    pub algorithm: Option<Algorithm>,
    /// `None` when there is only a private half, or one that does not fit.
    pub public_key: Option<PublicKey>,
    /// Whether the private half is there.
    pub has_private_key: bool,
    /// Reference good for `private_key_ctx.key_id` of mode `Remote`.
    pub key_id: Option<String>,
}
