use std::{fmt, ops::Deref, sync::Arc};

use crate::{Error, Health, KeyDetails, KeyIndex, KeyManager, KeyManagers, Result};

/// What to do with a key whose manager nobody registered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownManager {
    /// Attempt the default manager, with a warning, where it could hold such a key.
    #[default]
    Default,
    /// Refuse.
    Refuse,
}

/// Identity of a live manager: `(manager, name)`, printed `manager#name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Designation {
    /// Name of the manager.
    pub manager: String,
    /// Name of the provider configuration; empty for the default manager.
    pub name: String,
}

impl fmt::Display for Designation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.manager, self.name)
    }
}

/// Picks the manager of a key and keeps managers alive.
#[derive(Debug)]
pub struct KeyService {
    index: Arc<dyn KeyIndex>,
    managers: KeyManagers,
    default: String,
    unknown: UnknownManager,
}

impl KeyService {
    /// A service over `index`; `default` names the manager of keys without a provider
    /// configuration.
    ///
    /// # Errors
    /// `Internal` when `default` is not registered.
    pub fn new(
        index: Arc<dyn KeyIndex>,
        managers: KeyManagers,
        default: &str,
        unknown: UnknownManager,
    ) -> Result<Self> {
        if managers.factory(default).is_none() {
            return Err(Error::internal(format!(
                "default key manager {default} is not registered"
            )));
        }
        Ok(Self { index, managers, default: default.to_owned(), unknown })
    }

    /// Where keys are found.
    pub fn index(&self) -> &dyn KeyIndex {
        self.index.as_ref()
    }

    /// The manager of `key`, built on first use.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be built now; `NotPermitted` when nobody registered it.
    pub async fn manager_for(&self, key: &KeyDetails) -> Result<Lease> {
        let _ = (key, &self.managers, &self.default, self.unknown);
        todo!()
    }

    /// Health of every live manager.
    pub async fn health(&self) -> Vec<(Designation, Health)> {
        todo!()
    }

    /// Closes replaced managers once their last lease has gone; runs until [`KeyService::close`].
    pub async fn drain_replaced(&self) {
        todo!()
    }

    /// Waits for leases to end, then closes every manager. Afterwards `manager_for` fails.
    pub async fn close(&self) {
        todo!()
    }
}

/// A manager in use; a replaced manager is closed after its last lease.
#[derive(Debug)]
pub struct Lease {
    manager: Arc<dyn KeyManager>,
    designation: Designation,
}

impl Lease {
    /// Which manager this is.
    pub fn designation(&self) -> &Designation {
        &self.designation
    }

    /// Whether both are the same live manager.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.manager, &other.manager)
    }
}

impl Deref for Lease {
    type Target = dyn KeyManager;

    fn deref(&self) -> &Self::Target {
        self.manager.as_ref()
    }
}
