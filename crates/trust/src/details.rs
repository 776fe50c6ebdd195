use std::{fmt, sync::Arc};

use kasbah_crypto::{Algorithm, PublicKey};

/// The `kid` of a key inside one KAS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The text of the kid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for KeyId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a [`crate::KeyIndex`] knows of a key; never a plaintext secret.
#[derive(Debug, Clone)]
pub struct KeyDetails {
    /// URI of the KAS the key belongs to; together with `kid` it names the key.
    pub kas_uri: Arc<str>,
    /// Identifier inside that KAS.
    pub kid: KeyId,
    /// What the key is for.
    pub algorithm: Algorithm,
    /// Where its private part lives.
    pub mode: KeyMode,
    /// Rotated keys still decrypt but are not handed out; disabled and compromised keys do neither.
    pub status: KeyStatus,
    /// Whether key access objects without a kid may be tried against it.
    pub legacy: bool,
    /// The public part.
    pub public_key: PublicKey,
    /// How its manager finds the private part.
    pub private_key: PrivateKeyRef,
    /// The configuration of its manager; `None` means the default manager.
    pub provider: Option<Arc<ProviderConfig>>,
}

/// Where the private part of a key lives (`policy.KeyMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyMode {
    /// In the database, wrapped by a root key that the KAS has.
    ConfigRootKey,
    /// In the database, wrapped by a key that the manager's device has.
    ProviderRootKey,
    /// With the manager; `wrapping_key_id` names it there.
    Remote,
    /// Nowhere here.
    PublicKeyOnly,
}

/// Life-cycle state of a key (`policy.KeyStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyStatus {
    /// Handed out to clients.
    Active,
    /// Only decrypts.
    Rotated,
    /// Out of use until an administrator activates it again.
    Disabled,
    /// Out of use for good: its private part may be known to others.
    Compromised,
}

/// `private_key_ctx` of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateKeyRef {
    /// `key_id`: the wrapping key, or the remote key itself (an RFC 7512 URI for
    /// `opentdf.io/hsm`).
    pub key_id: Option<String>,
    /// `wrapped_key`: base64 text as stored. Encrypted.
    pub wrapped_key: Option<String>,
}

/// A provider configuration: which manager, under which settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Label of the configuration.
    pub name: String,
    /// Name the manager was registered under, e.g. `opentdf.io/hsm`. Case-sensitive.
    pub manager: String,
    /// Settings as JSON text; names local entries, never holds secrets.
    pub config_json: String,
    /// Grows with every change, so that a manager built from an older one is replaced.
    pub version: u64,
}
