use std::{collections::HashMap, sync::Arc};

use kasbah_crypto::{PrivateKey, PublicKey};
use kasbah_trust::{KeyDetails, KeyId};
use sha2::{Digest, Sha256};

/// How many private keys a manager keeps parsed: every active and rotated key of many KAS, at a few
/// KiB each.
pub const CACHED_KEYS: usize = 256;

/// A private key that was found to belong to `public`.
pub(crate) struct LoadedKey {
    pub(crate) private: PrivateKey,
    pub(crate) public: PublicKey,
}

/// What was unwrapped: a key made anew under an old kid, or stored again under another root key,
/// is another one.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    kas_uri: Arc<str>,
    kid: KeyId,
    root_key: String,
    wrapped: [u8; 32],
}

impl CacheKey {
    pub(crate) fn new(key: &KeyDetails, wrapped: &str, root_key: &str) -> Self {
        Self {
            kas_uri: Arc::clone(&key.kas_uri),
            kid: key.kid.clone(),
            root_key: root_key.to_owned(),
            wrapped: Sha256::digest(wrapped).into(),
        }
    }
}

/// Loaded keys, of which the least recently used gives way.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<CacheKey, Entry>,
    uses: u64,
}

struct Entry {
    key: Arc<LoadedKey>,
    last_use: u64,
}

impl Cache {
    pub(crate) fn get(&mut self, key: &CacheKey) -> Option<Arc<LoadedKey>> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        entry.last_use = self.uses;
        Some(Arc::clone(&entry.key))
    }

    pub(crate) fn insert(&mut self, key: CacheKey, loaded: Arc<LoadedKey>) {
        if self.entries.len() >= CACHED_KEYS && !self.entries.contains_key(&key) {
            let oldest = self.entries.values().map(|entry| entry.last_use).min();
            self.entries.retain(|_, entry| Some(entry.last_use) != oldest);
        }
        self.uses += 1;
        self.entries.insert(key, Entry { key: loaded, last_use: self.uses });
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use kasbah_crypto::ec::EcPrivateKey;
    use kasbah_trust::Curve;

    use super::*;

    static_assertions::assert_not_impl_any!(LoadedKey: std::fmt::Debug, Clone, PartialEq);

    fn cache_key(number: usize) -> CacheKey {
        let kid = KeyId::from(number.to_string().as_str());
        CacheKey { kas_uri: "".into(), kid, root_key: String::new(), wrapped: [0; 32] }
    }

    fn loaded() -> Arc<LoadedKey> {
        let private = PrivateKey::Ec(EcPrivateKey::generate(Curve::P256).unwrap());
        Arc::new(LoadedKey { public: private.public_key(), private })
    }

    #[test]
    fn the_least_recently_used_gives_way() {
        let mut cache = Cache::default();
        for number in 0..CACHED_KEYS {
            cache.insert(cache_key(number), loaded());
        }
        assert!(cache.get(&cache_key(0)).is_some());
        cache.insert(cache_key(CACHED_KEYS), loaded());
        assert_eq!(cache.len(), CACHED_KEYS);
        assert!(cache.get(&cache_key(0)).is_some(), "used a moment ago");
        assert!(cache.get(&cache_key(1)).is_none(), "the oldest stayed");
    }

    #[test]
    fn what_is_there_already_displaces_nothing() {
        let mut cache = Cache::default();
        for number in (0..CACHED_KEYS).chain([5]) {
            cache.insert(cache_key(number), loaded());
        }
        assert_eq!(cache.len(), CACHED_KEYS);
        assert!(cache.get(&cache_key(0)).is_some());
    }
}
