use std::{collections::BTreeMap, fmt};

use kasbah_crypto::envelope::RootKey;

use crate::error::{Fault, RootKeyError};

/// Root keys by alias, which is what `private_key_ctx.key_id` says of a stored key.
pub struct RootKeys {
    default: String,
    keys: BTreeMap<String, RootKey>,
}

impl RootKeys {
    /// `default_alias` names the root key of those stored keys that name none.
    ///
    /// # Errors
    /// When there is no key of that alias.
    pub fn new(
        default_alias: String,
        keys: BTreeMap<String, RootKey>,
    ) -> Result<Self, RootKeyError> {
        let keys = Self { default: default_alias, keys };
        if keys.keys.contains_key(&keys.default) {
            Ok(keys)
        } else {
            Err(RootKeyError { known: keys.known(), default: keys.default })
        }
    }

    /// The root key, and its alias, of a stored key that names `alias`.
    ///
    /// Where there is only one root key an unknown alias means that one: OpenTDF ignores the alias,
    /// so stored keys carry any.
    pub(crate) fn find(&self, alias: Option<&str>) -> Result<(&str, &RootKey), Fault> {
        let wanted = alias.unwrap_or(&self.default);
        let found = self.keys.get_key_value(wanted);
        let only = || self.keys.first_key_value().filter(|_| self.keys.len() == 1);
        match found.or_else(only) {
            Some((alias, key)) => Ok((alias, key)),
            None => Err(Fault::UnknownRootKey { alias: wanted.to_owned(), known: self.known() }),
        }
    }

    /// The root key of this alias and no other.
    pub(crate) fn exactly(&self, alias: &str) -> Option<&RootKey> {
        self.keys.get(alias)
    }

    fn known(&self) -> String {
        self.keys.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKeys")
            .field("default", &self.default)
            .field("aliases", &self.known())
            .finish_non_exhaustive()
    }
}
