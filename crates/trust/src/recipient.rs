use std::{any::Any, fmt};

use kasbah_crypto::{
    Dek, PublicKey,
    ec::{EcPrivateKey, EcPublicKey, WrapKey},
    rsa::RsaPublicKey,
};

use crate::{Error, Result};

/// A client key opened for one response.
///
/// An answer has room for one ephemeral key (`session_public_key`), however many data keys it
/// carries, so a recipient is opened once and shared by all of them.
pub struct Recipient(Kind);

enum Kind {
    Device(Box<dyn DeviceRecipient>),
    HostEc { client: EcPublicKey, session: EcPublicKey, key: WrapKey },
    Rsa(RsaPublicKey),
}

/// An EC recipient whose ephemeral key and derived wrapping key live in a manager's device.
///
/// Dropping it releases both. Only the manager that made it can use it: it finds its own type
/// again through [`Any`].
pub trait DeviceRecipient: Any + Send + Sync {
    /// The client's key.
    fn client_key(&self) -> &EcPublicKey;

    /// Public half of the ephemeral key.
    fn session_key(&self) -> &EcPublicKey;
}

impl Recipient {
    /// Opens a client key in host memory: nothing to hold for RSA, an ephemeral key for EC.
    ///
    /// # Errors
    /// `Internal` when the system's random source fails.
    pub fn in_host(client: &PublicKey) -> Result<Self> {
        let kind = match client {
            PublicKey::Rsa(key) => Kind::Rsa(key.clone()),
            PublicKey::Ec(client) => {
                let ephemeral = EcPrivateKey::generate(client.curve()).map_err(Error::internal)?;
                Kind::HostEc {
                    client: client.clone(),
                    session: ephemeral.public_key().clone(),
                    key: ephemeral.agree(client).map_err(Error::internal)?,
                }
            }
        };
        Ok(Self(kind))
    }

    /// Wraps what a manager opened in its device.
    pub fn in_device(recipient: impl DeviceRecipient) -> Self {
        Self(Kind::Device(Box::new(recipient)))
    }

    /// The client's RSA key, if it is one.
    pub fn rsa(&self) -> Option<&RsaPublicKey> {
        match &self.0 {
            Kind::Rsa(key) => Some(key),
            Kind::Device(_) | Kind::HostEc { .. } => None,
        }
    }

    /// What a manager opened in its device, if it is of type `T`.
    pub fn device<T: DeviceRecipient>(&self) -> Option<&T> {
        match &self.0 {
            Kind::Device(device) => (device.as_ref() as &dyn Any).downcast_ref(),
            Kind::Rsa(_) | Kind::HostEc { .. } => None,
        }
    }

    /// The client's key.
    pub fn client_key(&self) -> PublicKey {
        match &self.0 {
            Kind::Rsa(key) => PublicKey::Rsa(key.clone()),
            Kind::HostEc { client, .. } => PublicKey::Ec(client.clone()),
            Kind::Device(device) => PublicKey::Ec(device.client_key().clone()),
        }
    }

    /// PEM for `session_public_key`; `None` for an RSA client.
    pub fn session_public_key(&self) -> Option<String> {
        let key = match &self.0 {
            Kind::Rsa(_) => return None,
            Kind::HostEc { session, .. } => session,
            Kind::Device(device) => device.session_key(),
        };
        Some(PublicKey::Ec(key.clone()).to_pem())
    }

    /// Encrypts a data key that is in host memory.
    ///
    /// # Errors
    /// `Unsupported` for a recipient in a device; `Internal` when the library refuses.
    pub fn encrypt(&self, dek: &Dek) -> Result<Vec<u8>> {
        match &self.0 {
            Kind::Rsa(key) => key.encrypt(dek).map_err(Error::internal),
            Kind::HostEc { key, .. } => key.seal(dek).map_err(Error::internal),
            Kind::Device(_) => {
                Err(Error::Unsupported("the session key lives in another key manager's device"))
            }
        }
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::Device(_) => "device",
            Kind::HostEc { .. } => "host-ec",
            Kind::Rsa(_) => "rsa",
        };
        f.debug_struct("Recipient").field("kind", &kind).finish_non_exhaustive()
    }
}
