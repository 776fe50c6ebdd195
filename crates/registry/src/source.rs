//! The keys of one key access server, for the index of the data plane.

use async_trait::async_trait;
use kasbah_index::KeySource;
use kasbah_trust::{Error as Trust, KeyDetails, KeyId, Result};

use crate::{KasName, KeyName, Registry, convert, error::Error};

/// A source of keys over a registry in the same process.
#[derive(Debug, Clone)]
pub struct RegistrySource {
    registry: Registry,
    kas_uri: String,
}

impl RegistrySource {
    /// The keys of `kas_uri`.
    pub fn new(registry: Registry, kas_uri: String) -> Self {
        Self { registry, kas_uri }
    }
}

#[async_trait]
impl KeySource for RegistrySource {
    async fn find(&self, kid: &KeyId) -> Result<Option<KeyDetails>> {
        let name = KeyName::InKas(KasName::Uri(self.kas_uri.clone()), kid.to_string());
        match self.registry.key(&name).await {
            Ok(key) => convert::key_details(&key).map_err(of_registry),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(of_registry(error)),
        }
    }

    async fn list(&self) -> Result<Vec<KeyDetails>> {
        let keys = self.registry.keys_of(&self.kas_uri).await.map_err(of_registry)?;
        let mut details = Vec::with_capacity(keys.len());
        for key in keys {
            match convert::key_details(&key) {
                Ok(key) => details.extend(key),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(kid = key.kid, error, "a registered key is left out");
                }
            }
        }
        Ok(details)
    }

    async fn revision(&self) -> Result<Option<u64>> {
        self.registry.database().revision().await.map(Some).map_err(of_registry)
    }
}

fn of_registry(error: Error) -> Trust {
    match error {
        Error::Unavailable { .. } => Trust::unavailable(error),
        error => Trust::internal(error),
    }
}
