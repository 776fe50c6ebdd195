use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use kasbah_trust::{Deadline, Error, KeyDetails, KeyFilter, KeyId, KeyIndex, Result};

/// A fixed list of keys.
///
/// The order given decides: the first active key that is not legacy is the one handed out for its
/// algorithm, and legacy keys are tried in that order. A keyring without legacy keys has none:
/// nothing is inferred.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Arc<KeyDetails>>,
    by_id: BTreeMap<KeyId, Arc<KeyDetails>>,
}

/// A keyring that cannot stand.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Two keys share a kid.
    #[error("kid {0} is used twice in the keyring; give one of the keys another kid")]
    Duplicate(KeyId),
    /// A key without a kid could never be asked for.
    #[error("a key of the keyring has an empty kid; give it one")]
    EmptyKid,
    /// The key belongs to another KAS.
    #[error("key {kid} belongs to {found}, not to this KAS at {expected}")]
    Foreign {
        /// Which key.
        kid: KeyId,
        /// The KAS of the keyring.
        expected: Box<str>,
        /// The KAS of the key.
        found: Arc<str>,
    },
}

impl Keyring {
    /// The keys of the KAS at `kas_uri`.
    ///
    /// # Errors
    /// When a kid is empty or used twice, or a key belongs to another KAS.
    pub fn new(kas_uri: &str, keys: Vec<KeyDetails>) -> Result<Self, KeyringError> {
        let keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        let mut by_id = BTreeMap::new();
        for key in &keys {
            if key.kid.as_str().is_empty() {
                return Err(KeyringError::EmptyKid);
            }
            if *key.kas_uri != *kas_uri {
                let (expected, found) = (kas_uri.into(), Arc::clone(&key.kas_uri));
                return Err(KeyringError::Foreign { kid: key.kid.clone(), expected, found });
            }
            if by_id.insert(key.kid.clone(), Arc::clone(key)).is_some() {
                return Err(KeyringError::Duplicate(key.kid.clone()));
            }
        }
        Ok(Self { keys, by_id })
    }
}

#[async_trait]
impl KeyIndex for Keyring {
    async fn find_by_id(&self, kid: &KeyId, _: Deadline) -> Result<Arc<KeyDetails>> {
        self.by_id.get(kid).cloned().ok_or_else(|| Error::NotFound(kid.clone()))
    }

    async fn list(&self, filter: KeyFilter, _: Deadline) -> Result<Vec<Arc<KeyDetails>>> {
        let passes = |key: &&Arc<KeyDetails>| {
            filter.algorithm.is_none_or(|wanted| key.algorithm == wanted)
                && filter.legacy.is_none_or(|wanted| key.legacy == wanted)
        };
        Ok(self.keys.iter().filter(passes).cloned().collect())
    }
}
