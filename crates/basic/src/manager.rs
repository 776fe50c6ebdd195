use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use kasbah_crypto::PrivateKey;
use kasbah_trust::{
    Custody, Deadline, EcPublicKey, Error, Health, KeyDetails, KeyManager, KeyMode, KeyStore,
    ProtectedKey, Result, SoftwareKey, WrappedDek,
};

use crate::{
    MANAGER, RootKeys,
    cache::{Cache, CacheKey, LoadedKey},
    error::{Fault, StoredKeyError},
    stored,
};

/// The manager `opentdf.io/basic`.
///
/// Its work is done on the calling thread, and no call ever waits: a rewrap is 0.25 ms of CPU for
/// an RSA-2048 key, 1.5 ms for RSA-4096, 0.06 ms for P-256. A pool of blocking threads would have
/// to hand over each of them, which cost a tenth of the throughput on two cores, and leave no more
/// CPU to anybody else.
pub struct BasicManager {
    /// `None` once closed.
    open: Mutex<Option<Open>>,
}

struct Open {
    root_keys: Arc<RootKeys>,
    cache: Cache,
}

impl BasicManager {
    /// A manager that unwraps with `root_keys`.
    pub fn new(root_keys: Arc<RootKeys>) -> Self {
        Self { open: Mutex::new(Some(Open { root_keys, cache: Cache::default() })) }
    }

    /// How many private keys are in memory.
    pub fn loaded_keys(&self) -> usize {
        self.state().as_ref().map_or(0, |open| open.cache.len())
    }

    /// The private key of `key`, from memory or from its stored form.
    fn load(&self, key: &KeyDetails, deadline: Deadline) -> Result<Arc<LoadedKey>> {
        let root_keys = self.root_keys()?;
        if deadline.has_passed() {
            return Err(Error::unavailable("the deadline passed before the work began"));
        }
        if key.mode == KeyMode::PublicKeyOnly {
            return Err(Error::NotPermitted("only the public part of this key is kept here"));
        }
        let wrapped = key.private_key.wrapped_key.as_deref();
        let wrapped = wrapped.ok_or_else(|| Error::NotFound(key.kid.clone()))?;
        let fail = |fault| Self::fault(key, fault);
        let (alias, root) = root_keys.find(key.private_key.key_id.as_deref()).map_err(fail)?;

        let cache_key = CacheKey::new(key, wrapped, alias);
        let cached = self.state().as_mut().and_then(|open| open.cache.get(&cache_key));
        if let Some(loaded) = cached {
            // What is stored beside the private key may have changed since it was loaded.
            let fits = loaded.public == key.public_key;
            return if fits { Ok(loaded) } else { Err(fail(Fault::Mismatch)) };
        }
        // Outside of the lock: two who come at once do the same work, which is harmless.
        let loaded = Arc::new(stored::load(key, wrapped, alias, root).map_err(fail)?);
        if let Some(open) = self.state().as_mut() {
            open.cache.insert(cache_key, Arc::clone(&loaded));
        }
        Ok(loaded)
    }

    pub(crate) fn fault(key: &KeyDetails, fault: Fault) -> Error {
        StoredKeyError { kid: key.kid.clone(), fault }.into()
    }

    pub(crate) fn root_keys(&self) -> Result<Arc<RootKeys>> {
        let state = self.state();
        let open =
            state.as_ref().ok_or_else(|| Error::unavailable("opentdf.io/basic is closed"))?;
        Ok(Arc::clone(&open.root_keys))
    }

    fn state(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyManager for BasicManager {
    fn name(&self) -> &str {
        MANAGER
    }

    async fn decrypt(
        &self,
        key: &KeyDetails,
        wrapped: &WrappedDek,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        let dek = self.load(key, deadline)?.private.unwrap_dek(wrapped)?;
        Ok(Box::new(SoftwareKey::new(dek, Custody::SOFTWARE)))
    }

    async fn derive(
        &self,
        key: &KeyDetails,
        peer: &EcPublicKey,
        deadline: Deadline,
    ) -> Result<Box<dyn ProtectedKey>> {
        match &self.load(key, deadline)?.private {
            PrivateKey::Ec(private) => {
                let dek = private.agree(peer)?.to_dek()?;
                Ok(Box::new(SoftwareKey::new(dek, Custody::SOFTWARE)))
            }
            PrivateKey::Rsa(_) => Err(Error::Unsupported("an RSA key agrees on nothing")),
        }
    }

    fn key_store(&self) -> Option<&dyn KeyStore> {
        Some(self)
    }

    async fn health(&self) -> Health {
        match self.root_keys() {
            Ok(_) => Health::Ready,
            Err(_) => Health::NotReady("closed".to_owned()),
        }
    }

    /// Forgets the private keys and its share of the root keys.
    async fn close(&self) {
        *self.state() = None;
    }
}

impl fmt::Debug for BasicManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicManager")
            .field("loaded_keys", &self.loaded_keys())
            .finish_non_exhaustive()
    }
}
