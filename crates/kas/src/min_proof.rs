use std::collections::BTreeMap;

use kasbah_auth::Proof;
use kasbah_trust::KeyDetails;

/// How well callers must prove that a token is theirs before a key is used for them. It is the
/// node's own word, by name: who can write keys and provider configurations cannot lower it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MinProof {
    /// By name of the provider configuration.
    pub providers: BTreeMap<String, Proof>,
    /// By kid.
    pub keys: BTreeMap<String, Proof>,
}

impl MinProof {
    /// What `key` needs; the stricter of what its provider and its kid say.
    pub(crate) fn of(&self, key: &KeyDetails) -> Proof {
        let provider = key.provider.as_ref().and_then(|config| self.providers.get(&config.name));
        let own = self.keys.get(key.kid.as_str());
        provider.into_iter().chain(own).max().copied().unwrap_or(Proof::Bearer)
    }
}
