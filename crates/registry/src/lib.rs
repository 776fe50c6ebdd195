//! The control plane: which keys a key access server has, and which manager owns each.
//!
//! [`Registry`] holds the rules, over a [`Database`]; [`services`] puts OpenTDF's services and ours
//! in front of it. Behaviour follows OpenTDF's policy service; where that one answers `internal`
//! or success for what is neither, this one says what is wrong.
#![forbid(unsafe_code)]

mod actor;
mod audit;
mod base_key;
mod convert;
mod db;
mod entitlements;
mod error;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod intents;
mod kas;
mod keys;
mod mappings;
mod material;
mod model;
mod providers;
mod replay;
mod rotation;
pub mod services;
mod sort;
mod source;
mod uses;
mod validate;

use std::{borrow::Cow, fmt, sync::Arc};

pub use audit::{MemoryPolicyAudit, PolicyAudit};
pub use db::{Database, Kind, MigrationStatus};
pub use entitlements::DocumentCheck;
pub use error::{Error, Result};
pub use files::{Declared, FileError, read_providers};
pub use intents::Intent;
pub use kas::{KasChange, NewKas};
pub use keys::{KeyQuery, KeyState, NewKey, UnsafeChange};
pub use mappings::{Mapping, Moved, ObjectKind, PolicyObject};
pub use model::{
    Kas, KasName, Key, KeyName, LabelChange, Labels, Listed, Page, PrivateKey, Provider,
};
pub use providers::{NewProvider, ProviderChange, ProviderName};
pub use replay::DatabaseReplay;
pub use rotation::Rotation;
pub use sort::Order;
pub use source::RegistrySource;
pub use uses::{Use, Uses};

/// Says whether the settings of a provider configuration can be, without asking a device.
pub trait SettingsCheck: fmt::Debug + Send + Sync + 'static {
    /// Checks the settings, JSON text, of `name` for `manager`.
    ///
    /// # Errors
    /// What is wrong, for whoever wrote them.
    fn check(&self, name: &str, manager: &str, config_json: &str) -> Result<(), Cow<'static, str>>;
}

/// The rules of the control plane, over a database.
#[derive(Debug, Clone)]
pub struct Registry {
    db: Database,
    settings: Arc<dyn SettingsCheck>,
}

impl Registry {
    /// A registry whose provider configurations must pass `settings`.
    pub fn new(db: Database, settings: Arc<dyn SettingsCheck>) -> Self {
        Self { db, settings }
    }

    /// Where it keeps everything.
    pub fn database(&self) -> &Database {
        &self.db
    }
}
