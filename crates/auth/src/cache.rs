use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;

use crate::VerifiedToken;

/// Tokens that were verified, the least recently used of them forgotten.
pub(crate) struct TokenCache(Option<Mutex<LruCache<[u8; 32], Entry>>>);

/// A token that was good when it was verified.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) token: Arc<VerifiedToken>,
    /// Of the keys it was verified with.
    pub(crate) generation: u64,
}

impl TokenCache {
    /// Remembers up to `entries`.
    pub(crate) fn new(entries: usize) -> Self {
        // The map grows with what is in it.
        let empty = |entries| {
            let mut cache = LruCache::unbounded();
            cache.resize(entries);
            Mutex::new(cache)
        };
        Self(NonZeroUsize::new(entries).map(empty))
    }

    pub(crate) fn get(&self, fingerprint: &[u8; 32]) -> Option<Entry> {
        self.entries()?.get(fingerprint).cloned()
    }

    pub(crate) fn insert(&self, token: Arc<VerifiedToken>, generation: u64) {
        if let Some(mut entries) = self.entries() {
            entries.put(token.fingerprint, Entry { token, generation });
        }
    }

    pub(crate) fn remove(&self, fingerprint: &[u8; 32]) {
        if let Some(mut entries) = self.entries() {
            entries.pop(fingerprint);
        }
    }

    fn entries(&self) -> Option<MutexGuard<'_, LruCache<[u8; 32], Entry>>> {
        let entries = self.0.as_ref()?;
        Some(entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(fingerprint: u8) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken {
            issuer: String::new(),
            subject: String::new(),
            claims: Arc::default(),
            confirmation: None,
            expires: 0,
            text: Arc::new(String::new().into()),
            fingerprint: [fingerprint; 32],
        })
    }

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let cache = TokenCache::new(2);
        cache.insert(token(1), 10);
        cache.insert(token(2), 20);
        assert_eq!(cache.get(&[1; 32]).unwrap().generation, 10);
        cache.insert(token(3), 30);
        assert!(cache.get(&[2; 32]).is_none());
        assert_eq!(cache.get(&[1; 32]).unwrap().token.fingerprint, [1; 32]);
        cache.remove(&[1; 32]);
        assert!(cache.get(&[1; 32]).is_none());
        assert_eq!(cache.get(&[3; 32]).unwrap().generation, 30);
    }

    #[test]
    fn nothing_need_be_remembered() {
        let cache = TokenCache::new(0);
        cache.insert(token(1), 0);
        assert!(cache.get(&[1; 32]).is_none());
    }
}
