use std::sync::Arc;

use async_trait::async_trait;
use kasbah_trust::{KeyManager, KeyManagerFactory, ProviderConfig, Result};

use crate::{BasicManager, RootKeys};

/// Makes [`BasicManager`]s that share their root keys.
#[derive(Debug)]
pub struct BasicFactory(Arc<RootKeys>);

impl BasicFactory {
    /// A factory of managers that unwrap with `root_keys`.
    pub fn new(root_keys: RootKeys) -> Self {
        Self(Arc::new(root_keys))
    }
}

#[async_trait]
impl KeyManagerFactory for BasicFactory {
    /// The provider configuration has no settings for this manager and is not read.
    async fn create(&self, _: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        Ok(Arc::new(BasicManager::new(Arc::clone(&self.0))))
    }
}
