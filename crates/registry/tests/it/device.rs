//! A manager of devices that do as their settings say: a fake, to have keys made and to have what a
//! manager says quote its settings.

use std::sync::Arc;

use kasbah_crypto::{Algorithm, Curve, PrivateKeyParts, ec::EcPublicKey};
use kasbah_trust::{
    Deadline, Error, Health, KeyDetails, KeyId, KeyManager, KeyManagerFactory, KeyMode, KeyStore,
    NewKey, PrivateKeyRef, ProtectedKey, ProviderConfig, Result, StoredKey, WrappedDek,
};
use tonic::async_trait;

/// Name of the manager.
pub(crate) const DEVICE: &str = "test/device";
/// What it hands out as a wrapped private key.
pub(crate) const MADE_WRAPPED: &str = "TUFERS1XUkFQUEVE";

/// With the word `broken` in its settings it does not come up, with `silent` it does not answer, and
/// with `holding` it holds a P-256 key named [`HELD`].
#[derive(Debug)]
pub(crate) struct Devices;

/// Name of the key in a device that holds one.
pub(crate) const HELD: &str = "held";

#[derive(Debug)]
struct Device {
    settings: String,
    held: Vec<StoredKey>,
}

fn held() -> Result<StoredKey> {
    let algorithm = Algorithm::Ec(Curve::P256);
    let key = PrivateKeyParts::generate(algorithm).map_err(Error::internal)?;
    Ok(StoredKey {
        kid: HELD.into(),
        algorithm: Some(algorithm),
        public_key: Some(key.public_key()),
        has_private_key: true,
        key_id: Some("held-key".to_owned()),
    })
}

#[async_trait]
impl KeyManagerFactory for Devices {
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        let settings = config.config_json.clone();
        if settings.contains("broken") {
            return Err(Error::unavailable(format!("no device for {settings}")));
        }
        let held = if settings.contains("holding") { vec![held()?] } else { Vec::new() };
        Ok(Arc::new(Device { settings, held }))
    }
}

impl Device {
    fn down<T>(&self) -> Result<T> {
        Err(Error::unavailable(format!("no answer from the device of {}", self.settings)))
    }
}

#[async_trait]
impl KeyManager for Device {
    fn name(&self) -> &str {
        DEVICE
    }

    async fn decrypt(
        &self,
        _: &KeyDetails,
        _: &WrappedDek,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        self.down()
    }

    async fn derive(
        &self,
        _: &KeyDetails,
        _: &EcPublicKey,
        _: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        self.down()
    }

    fn key_store(&self) -> Option<&dyn KeyStore> {
        Some(self)
    }

    async fn health(&self) -> Health {
        Health::NotReady(format!("no session with {}", self.settings))
    }

    async fn close(&self) {}
}

#[async_trait]
impl KeyStore for Device {
    async fn generate(
        &self,
        _: &KeyId,
        algorithm: Algorithm,
        _: KeyMode,
        _: Deadline,
    ) -> Result<NewKey> {
        if self.settings.contains("silent") {
            return self.down();
        }
        let key = PrivateKeyParts::generate(algorithm).map_err(Error::internal)?;
        let private_key = PrivateKeyRef {
            key_id: Some("device-key".to_owned()),
            wrapped_key: Some(MADE_WRAPPED.to_owned()),
        };
        Ok(NewKey { public_key: key.public_key(), private_key })
    }

    async fn holds(&self, _: &KeyId, _: Deadline) -> Result<bool> {
        Ok(false)
    }

    async fn inventory(&self, _: Deadline) -> Result<Vec<StoredKey>> {
        if self.settings.contains("silent") { self.down() } else { Ok(self.held.clone()) }
    }

    async fn destroy(&self, kid: &KeyId, _: Deadline) -> Result<()> {
        Err(Error::NotFound(kid.clone()))
    }

    async fn wrap_again(&self, _: &KeyDetails, _: &str, _: Deadline) -> Result<PrivateKeyRef> {
        self.down()
    }
}
