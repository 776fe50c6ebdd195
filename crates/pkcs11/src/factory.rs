//! Making managers from provider configurations.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use kasbah_trust::{
    CustodyPolicy, Error, KeyManager, KeyManagerFactory, ProviderConfig, Result, SecretSource,
};

use crate::{
    config::{ConfigError, Settings},
    error::Error as TokenError,
    manager::HsmManager,
    module::Module,
    token::{PinSource, Token},
};

/// Makes [`HsmManager`]s from the modules and PINs that this node has.
#[derive(Debug, Clone)]
pub struct HsmFactory {
    modules: BTreeMap<String, PathBuf>,
    secrets: BTreeMap<String, SecretSource>,
    custody_floor: CustodyPolicy,
}

impl HsmFactory {
    /// A factory over the `modules` and `secrets` of this node, by name. No provider configuration
    /// gets custody below `custody_floor`.
    pub fn new(
        modules: BTreeMap<String, PathBuf>,
        secrets: BTreeMap<String, SecretSource>,
        custody_floor: CustodyPolicy,
    ) -> Self {
        Self { modules, secrets, custody_floor }
    }

    /// Builds the manager of a `config_json`. Loads the module and logs in: blocks.
    ///
    /// # Errors
    /// What is missing or wrong, and what to do about it.
    pub fn start(&self, config_json: &str) -> Result<HsmManager, TokenError> {
        let settings = self.settings(config_json)?;
        let path = entry("modules", &self.modules, &settings.module)?;
        let source = self.pin(&settings)?;
        let module = Module::load(&format!("modules.{}.path", settings.module), path)?;
        let pin = PinSource { name: settings.pin.clone(), source: source.clone() };
        let token = Token::open(&module, &settings.token, settings.slot, pin)?;
        HsmManager::start(token, &settings)
    }

    /// What was given is not repeated: people put PINs there.
    fn pin(&self, settings: &Settings) -> Result<&SecretSource, ConfigError> {
        self.secrets.get(&settings.pin).ok_or_else(|| {
            let known = list(self.secrets.keys());
            ConfigError(format!(
                "pin must be the name of an entry of `secrets` that nothing else uses; known: {known}"
            ))
        })
    }

    /// The settings in `config_json`, checked against what this node has.
    ///
    /// # Errors
    /// When they are malformed, name what this node lacks, or ask for custody below the floor.
    pub fn settings(&self, config_json: &str) -> Result<Settings, ConfigError> {
        let settings: Settings = config_json.parse()?;
        entry("modules", &self.modules, &settings.module)?;
        self.pin(&settings)?;
        if settings.custody < self.custody_floor {
            return Err(ConfigError(format!(
                "custody: {} is below this node's custody_floor, {}",
                settings.custody.as_str(),
                self.custody_floor.as_str()
            )));
        }
        Ok(settings)
    }
}

#[async_trait]
impl KeyManagerFactory for HsmFactory {
    async fn create(&self, config: &ProviderConfig) -> Result<Arc<dyn KeyManager>> {
        let factory = self.clone();
        let config_json = config.config_json.clone();
        // Loading a module and logging in take a moment, and are bounded.
        let started = tokio::task::spawn_blocking(move || factory.start(&config_json)).await;
        match started.map_err(Error::internal)? {
            Ok(manager) => Ok(Arc::new(manager)),
            Err(error) => Err(Error::unavailable(error)),
        }
    }
}

impl From<ConfigError> for TokenError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error.0)
    }
}

fn entry<'a, T>(
    what: &str,
    entries: &'a BTreeMap<String, T>,
    name: &str,
) -> Result<&'a T, ConfigError> {
    entries.get(name).ok_or_else(|| {
        ConfigError(format!("{what} has no entry {name:?}; known: {}", list(entries.keys())))
    })
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str, floor: CustodyPolicy) -> String {
        let modules = ["a", "b"].map(|name| (name.to_owned(), PathBuf::from("/no/such.so")));
        let pin = ("pin1".to_owned(), SecretSource::Env("KASBAH_TEST_PIN".into()));
        let factory = HsmFactory::new(modules.into(), [pin].into(), floor);
        factory.start(json).unwrap_err().to_string()
    }

    #[test]
    fn names_that_this_node_lacks_are_named() {
        for (json, expected) in [
            (
                r#"{"module":"x","token":"kas","pin":"pin1"}"#,
                r#"modules has no entry "x"; known: a, b"#,
            ),
            (
                r#"{"module":"/no/such.so","token":"kas","pin":"pin1"}"#,
                r#"modules has no entry "/no/such.so"; known: a, b"#,
            ),
            (
                r#"{"module":"a","token":"kas","pin":"12345678"}"#,
                "pin must be the name of an entry of `secrets` that nothing else uses; known: pin1",
            ),
        ] {
            assert_eq!(error(json, CustodyPolicy::Transient), expected);
        }
    }

    #[test]
    fn custody_below_the_floor_is_refused() {
        use CustodyPolicy as P;
        let json = |custody: &str| {
            format!(r#"{{"module":"a","token":"kas","pin":"pin1","custody":"{custody}"}}"#)
        };
        for (custody, floor) in [
            ("transient", P::PreferSealed),
            ("transient", P::RequireSealed),
            ("prefer-sealed", P::RequireSealed),
        ] {
            let text = error(&json(custody), floor);
            assert!(text.contains("custody_floor"), "{custody}: {text}");
        }
        for custody in ["transient", "prefer-sealed", "require-sealed"] {
            let text = error(&json(custody), P::Transient);
            assert!(text.contains("/no/such.so"), "{custody}: {text}");
        }
    }
}
