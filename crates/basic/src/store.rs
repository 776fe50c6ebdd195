//! What the manager does for a control plane: wrapping stored keys by another root key. It makes
//! no keys of its own; [`crate::wrap_private_key`] wraps those that an administrator brings.

use async_trait::async_trait;
use kasbah_trust::{
    Algorithm, Deadline, Error, KeyDetails, KeyId, KeyMode, KeyStore, NewKey, PrivateKeyRef,
    Result, StoredKey,
};

use crate::{BasicManager, stored};

#[async_trait]
impl KeyStore for BasicManager {
    async fn generate(&self, _: &KeyId, _: Algorithm, _: KeyMode, _: Deadline) -> Result<NewKey> {
        Err(Error::Unsupported("opentdf.io/basic keeps no keys; import a wrapped one"))
    }

    async fn holds(&self, _: &KeyId, _: Deadline) -> Result<bool> {
        Ok(false)
    }

    async fn inventory(&self, _: Deadline) -> Result<Vec<StoredKey>> {
        Ok(Vec::new())
    }

    async fn destroy(&self, kid: &KeyId, _: Deadline) -> Result<()> {
        Err(Error::NotFound(kid.clone()))
    }

    async fn wrap_again(
        &self,
        key: &KeyDetails,
        wrapping_key: &str,
        _: Deadline,
    ) -> Result<PrivateKeyRef> {
        let root_keys = self.root_keys()?;
        let fail = |fault| Self::fault(key, fault);
        let wrapped = key.private_key.wrapped_key.as_deref();
        let wrapped = wrapped.ok_or_else(|| Error::NotFound(key.kid.clone()))?;
        let (alias, old) = root_keys.find(key.private_key.key_id.as_deref()).map_err(fail)?;
        let new = root_keys
            .exactly(wrapping_key)
            .ok_or(Error::Unsupported("this node has no root key of the new name"))?;
        // Reads it as a rewrap would: what does not open, or does not belong to the public key, is
        // not passed on.
        stored::load(key, wrapped, alias, old).map_err(fail)?;
        let wrapped_key = Some(stored::wrap_again(wrapped, alias, old, new).map_err(fail)?);
        Ok(PrivateKeyRef { key_id: Some(wrapping_key.to_owned()), wrapped_key })
    }
}
